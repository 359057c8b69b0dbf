"""The state of one residual stream: the same tensor of the same layer, call after call, at its sender or a receiver.

Both ends hold the same state, because both compute it from the same bytes with the same function: the sender, too,
decodes its own payload. The loss of a codec becomes part of the next residual (closed loop, "error feedback" in
CompactFusion, arXiv 2507.17511), so errors do not add up.

Legend: N tokens, C channels, E exact tokens (sent raw).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import quantise
from .bases import Base, Keeping
from .checksum import checksums
from .codecs import BY_NAME, Codec
from .header import NONE, RAW, Header, WireError
from .rate import LADDER, LastMessage, Rate
from .wire import as_bytes

ALIGNMENT = 16
"""Every body starts and ends at a multiple of this number of bytes."""
EIGHT_BITS = BY_NAME["int8"].ident

Codecs = Mapping[int, Codec]
"""The configured codecs of a run, by number."""


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Shape:
    """Shape of a stream's tensor: (tokens, channels) values of `dtype`. The first `exact` tokens are sent raw."""

    tokens: int
    channels: int
    dtype: torch.dtype
    exact: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exact", min(self.exact, self.tokens))

    @property
    def coded(self) -> int:
        """Tokens that are encoded."""
        return self.tokens - self.exact

    @property
    def empty(self) -> bool:
        """Whether nothing is encoded."""
        return not self.coded * self.channels

    def nbytes(self, tokens: int) -> int:
        """Bytes of `tokens` raw tokens."""
        return tokens * self.channels * self.dtype.itemsize


class SendPolicy(NamedTuple):
    """How a sender treats its stream. `keeping`: how many bases are kept, and in which form. `closed_loop`: the
    base is the reconstruction; without it, for comparison only, the true tensor (the reported errors are then smaller
    than those at the receivers). `eight_bits`: the codec is int8 whatever the rate chooses."""

    keeping: Keeping
    closed_loop: bool = True
    eight_bits: bool = False


class Sent(NamedTuple):
    """A message without its body: the header, the supplement if there is one, the coded tokens as the receivers
    reconstruct them (None if nothing was encoded) and their relative error."""

    header: Header
    supplement: Tensor | None = None
    x_hat_NC: Tensor | None = None
    error: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of header, body and supplement."""
        return Header.SIZE + self.header.length + (0 if self.supplement is None else len(self.supplement))


class Stream:
    """State of the receiving end. `codec` is that of the next message and `body_nbytes` the size of its body: E raw
    tokens, then the coded ones, each part aligned.

    A message whose header is known passes `check`, `decoding` and `decoded`, which advances the state. One whose header
    the host has not read yet passes `decoding` and `hold`, and later, before the stream's next message, `settle`.
    """

    def __init__(self, shape: Shape, first: int, codecs: Codecs) -> None:
        self.shape = shape
        self.bases: tuple[Base, ...] = ()
        """The last reconstructions of the coded tokens, newest first."""
        self.held = 0
        """Bytes of the bases."""
        self.keep = 0
        """The largest number of bases to hold."""
        self.open = False
        """Whether the last message is still to be settled."""
        self._small = False
        self._first = first
        self._received = 0
        self._codecs = codecs
        self._sequence = self._order = 0
        self._exact_nbytes = aligned(shape.nbytes(shape.exact))
        self._payload_nbytes = 0
        self._raw_tokens = 0
        """Tokens of the next message that are sent raw."""
        self._announce(RAW if shape.empty else first)

    def _announce(self, codec: int) -> None:
        """Makes `codec` that of the next message."""
        shape = self.shape
        self.codec = codec
        if codec == RAW:
            self._raw_tokens, self.body_nbytes = shape.tokens, aligned(shape.nbytes(shape.tokens))
        else:
            self._raw_tokens = shape.exact
            self._payload_nbytes = self._codecs[codec].nbytes(shape.coded, shape.channels)
            self.body_nbytes = self._exact_nbytes + aligned(self._payload_nbytes)

    @property
    def young(self) -> bool:
        """Whether a header must be read before its message is decoded: how many bases are kept, and in which form, is
        decided at a sender's first two messages. From then on it is as the last header said."""
        return self._received < 2

    def supplement_nbytes(self, header: Header) -> int:
        """Bytes of the supplement that a header announces."""
        shape = self.shape
        if header.supplement == NONE:
            return 0
        if header.supplement == RAW:
            return aligned(shape.nbytes(shape.coded))
        return aligned(self._codecs[header.supplement].nbytes(shape.coded, shape.channels))

    def decoding(self, body: Tensor, out_NC: Tensor, keep: int | None = None) -> quantise.Decoding | None:
        """Writes the raw tokens into `out_NC` (N, C) and returns the task that decodes the rest, if any.

        `keep`: how many bases are kept from this message on; without it, as many as before.
        """
        shape = self.shape
        if raw := self._raw_tokens:
            out_NC[:raw] = body[: shape.nbytes(raw)].view(shape.dtype).view(raw, shape.channels)
            out_NC = out_NC[raw:]
        if self.codec == RAW:
            return None
        kept, codec = self.keep if keep is None else keep, self._codecs[self.codec]
        return quantise.Decoding(self._coded(body), codec, self._read_bases(), kept, out_NC)

    def decoded(self, header: Header, x_hat_NC: Tensor | None, supplement: Tensor | None, out_NC: Tensor) -> None:
        """Applies the supplement, if there is one, to the result of the decoding task, in `out_NC` too, and advances by
        this message. If the sender's tensor held NaN or Inf, all coded tokens become NaN."""
        shape = self.shape
        if not header.finite:
            out_NC[self._raw_tokens :] = torch.nan
            x_hat_NC = None
        if x_hat_NC is not None and header.supplement != NONE:
            if header.supplement == RAW:
                x_hat_NC = supplement[: shape.nbytes(shape.coded)].view(shape.dtype).view(x_hat_NC.shape).clone()
            else:
                codec = self._codecs[header.supplement]
                x_hat_NC = quantise.add_supplement(x_hat_NC, supplement[: codec.nbytes(*x_hat_NC.shape)], codec)
            out_NC[shape.exact :] = x_hat_NC
        self._advance_with(header, x_hat_NC)

    def check(self, header: Header, total: int, order: int | None = None) -> None:
        """Raises WireError unless `header` is that of the stream's next message and the body, whose checksum is
        `total`, is intact. `order`: the bases that could predict it, if they are no longer those held."""
        if header.checksum != total:
            raise WireError("The checksum of a payload does not match its content: it was damaged on the way.")
        order = len(self.bases) if order is None else order
        expected = (self.codec, self._sequence, self.body_nbytes)
        got = (header.codec, header.sequence, header.length)
        if got != expected or header.predicted_from not in (0, order):
            raise WireError(
                f"A payload has (codec, sequence, bytes) {got} and was predicted from {header.predicted_from} bases "
                f"where {expected} and {order} are expected: sender and receiver do not hold the same state; "
                "every rank must see the same messages in the same order."
            )

    def hold(self, x_hat_NC: Tensor | None) -> None:
        """Makes `x_hat_NC` the newest base before the header is known; None if nothing was encoded."""
        self.open, self._order = True, len(self.bases)
        self._take(x_hat_NC)

    def settle(self, header: Header, total: int | None = None) -> None:
        """Advances by the message that is held, whose header is known now.

        Raises WireError unless it is that of this message; `total` is the checksum of the body, if it was received.
        """
        self.open = False
        if total is not None:
            self.check(header, total, self._order)
            if self.bases and (header.keep, header.small_bases) != (self.keep, self._small):
                raise WireError("A payload changes how bases are kept: sender and receiver do not hold the same state.")
        self._advance(header)

    def _coded(self, body: Tensor) -> Tensor:
        return body.narrow(0, self._exact_nbytes, self._payload_nbytes)

    def _read_bases(self) -> tuple[Tensor, ...]:
        shape = self.shape
        return tuple(base.read(shape.coded, shape.channels, shape.dtype) for base in self.bases)

    def _take(self, x_hat_NC: Tensor | None) -> None:
        """Makes `x_hat_NC` the newest base; with None the stream drops all bases."""
        kept = x_hat_NC is not None and self.keep
        self.bases = (Base.of(x_hat_NC, self._small), *self.bases)[: self.keep] if kept else ()
        self.held = sum(base.nbytes for base in self.bases)

    def _advance(self, header: Header) -> None:
        """Advances by a message whose reconstruction has become the newest base."""
        if not header.predicted_from:
            self.bases = self.bases[:1]
        if not header.finite:
            self.bases = ()
        self.held = sum(base.nbytes for base in self.bases)
        self._received = self._received + 1 if header.finite else 0
        following = header.next_codec if header.finite else self._first
        if following != self.codec:
            self._announce(following)
        self._sequence = (self._sequence + 1) % 256

    def _advance_with(self, header: Header, x_hat_NC: Tensor | None) -> None:
        self.keep, self._small = header.keep, header.small_bases
        self._take(x_hat_NC)
        self._advance(header)


class Sender(Stream):
    """State of the sending end. A message passes `encoding` and `encoded`, which advances the state; or, where the host
    does not wait for what the device computes, `encoding`, `template` and `hold`, and later `settle`."""

    def __init__(self, shape: Shape, first: int, codecs: Codecs, rate: Rate, policy: SendPolicy) -> None:
        super().__init__(shape, first, codecs)
        self.policy = policy
        self._rate = rate
        self.calls = 0
        """Messages without NaN and Inf since the stream began, or began anew."""
        self._last_payload: tuple[int, Tensor] | None = None

    def encoding(self, x_NC: Tensor, body: Tensor) -> quantise.Encoding | None:
        """Writes the raw tokens of x (N, C) into `body` (uint8, `body_nbytes` long) and returns the task that encodes
        the other tokens; None if there are none. Whoever does that task writes zeros behind the payload."""
        nbytes = self.shape.nbytes(self._raw_tokens)
        if raw := self._raw_tokens:
            body[:nbytes] = as_bytes(x_NC[:raw])
            x_NC = x_NC[raw:]
        if nbytes % ALIGNMENT:
            body[nbytes : aligned(nbytes)] = 0
        if self.codec == RAW:
            return None
        number, previous = self._last_payload or (RAW, None)
        return quantise.Encoding(
            x_NC,
            self._codecs[self.codec],
            self._read_bases(),
            self.policy.keeping.bases,
            previous if number == self.codec else None,
            self._coded(body),
            body[self._exact_nbytes + self._payload_nbytes :],
        )

    def encoded(self, task: quantise.Encoding | None, coded: quantise.Coded | None, total: int) -> Sent:
        """Takes the result of the encoding task and advances by this message; `total` is the body's checksum.

        If the coded tokens hold NaN or Inf, the header says so and the stream starts anew.
        """
        if task is None or coded is None:
            return self._sent(Sent(self._header(total, next_codec=RAW)), None)
        if not coded.finite:
            self.calls, self._last_payload = 0, None
            header = self._header(total, next_codec=self._first, finite=False)
            return self._sent(Sent(header, error=math.nan), None)
        self._keep_payload(task)
        self.calls += 1
        number, supplement, x_hat_NC, error = self._supplement(task.x_NC, coded)
        last = LastMessage(*task.x_NC.shape, self.calls, self.codec, coded.missing, coded.error)
        header = self._header(
            total,
            next_codec=self._next(last),
            predicted_from=coded.used,
            k=coded.k,
            supplement=number,
            supplement_checksum=0 if supplement is None else checksums(supplement, [len(supplement)])[0],
        )
        return self._sent(Sent(header, supplement, x_hat_NC, error), self._kept(task, x_hat_NC))

    def template(self, task: quantise.Encoding | None) -> Header:
        """The header without what depends on the values of the tensor, for a rate without a bound."""
        following = RAW
        if task is not None:
            following = self._next(LastMessage(*task.x_NC.shape, self.calls + 1, self.codec, math.nan, math.nan))
        return self._header(0, next_codec=following, finite=False)

    def hold(self, x_hat_NC: Tensor | None, task: quantise.Encoding | None = None) -> None:
        """See `Stream.hold`; the reconstruction is that of `task`."""
        self.keep, self._small = self.policy.keeping
        if task is not None:
            self._keep_payload(task)
            x_hat_NC = self._kept(task, x_hat_NC)
        super().hold(x_hat_NC)

    def settle(self, header: Header, total: int | None = None) -> None:
        """See `Stream.settle`."""
        if self.codec != RAW:
            self.calls = self.calls + 1 if header.finite else 0
        if not header.finite:
            self._last_payload = None
        super().settle(header, total)

    def _next(self, last: LastMessage) -> int:
        return EIGHT_BITS if self.policy.eight_bits else self._rate.next(last)

    def _keep_payload(self, task: quantise.Encoding) -> None:
        self._last_payload = (self.codec, task.payload.clone()) if task.codec.warm_starts else None

    def _kept(self, task: quantise.Encoding, x_hat_NC: Tensor) -> Tensor:
        closed = self.policy.closed_loop
        return x_hat_NC if closed else task.x_NC.clone(memory_format=torch.contiguous_format)

    def _supplement(self, x_NC: Tensor, coded: quantise.Coded) -> tuple[int, Tensor | None, Tensor, float]:
        """(codec, bytes, x_hat, error) of the coarsest supplement that meets the bound; raw values if none does."""
        bound = self._rate.bound
        if bound is None or coded.error <= bound:
            return NONE, None, coded.x_hat_NC, coded.error
        for codec in LADDER[1:]:  # the first codec sends nothing
            payload, x_hat_NC, error = quantise.supplement(x_NC, coded.x_hat_NC, codec)
            if error <= bound:
                return codec.ident, _padded(payload), x_hat_NC, error
        return RAW, _padded(as_bytes(x_NC)), x_NC.clone(), 0.0

    def _header(
        self,
        total: int,
        next_codec: int,
        predicted_from: int = 0,
        finite: bool = True,
        k: float = 0.0,
        supplement: int = NONE,
        supplement_checksum: int = 0,
    ) -> Header:
        return Header(
            codec=self.codec,
            predicted_from=predicted_from,
            next_codec=next_codec,
            keep=self.policy.keeping.bases,
            finite=finite,
            sequence=self._sequence,
            supplement=supplement,
            small_bases=self.policy.keeping.small,
            k=k,
            length=self.body_nbytes,
            supplement_checksum=supplement_checksum,
            checksum=total,
        )

    def _sent(self, sent: Sent, kept_NC: Tensor | None) -> Sent:
        self._advance_with(sent.header, kept_NC)
        return sent


def _padded(payload: Tensor) -> Tensor:
    return torch.nn.functional.pad(payload, (0, aligned(len(payload)) - len(payload)))
