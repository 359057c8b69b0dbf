"""The state of one residual stream: the same tensor of the same layer, call after call, at its sender or a receiver.

Both ends hold the same state, because both compute it from the same bytes with the same function: the sender, too,
decodes its own payload. The loss of a codec becomes part of the next residual (closed loop, "error feedback" in
CompactFusion, arXiv 2507.17511), so errors do not add up.

Legend: N tokens, C channels, E exact tokens (sent raw).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import quantise
from .bases import Base, Keeping
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
    """State of the receiving end. Each message passes `check`, `decoding` and `decoded`, which advances the state.

    `codec` is that of the next message and `body_nbytes` the size of its body: E raw tokens, then the coded ones, each
    part aligned.
    """

    def __init__(self, shape: Shape, first: int, codecs: Codecs) -> None:
        self.shape = shape
        self.bases: tuple[Base, ...] = ()
        """The last reconstructions of the coded tokens, newest first."""
        self.held = 0
        """Bytes of the bases."""
        self.keep = 0
        """The largest number of bases to hold."""
        self._codecs = codecs
        self._sequence = 0
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

    def supplement_nbytes(self, header: Header) -> int:
        """Bytes of the supplement that a header announces."""
        shape = self.shape
        if header.supplement == NONE:
            return 0
        if header.supplement == RAW:
            return aligned(shape.nbytes(shape.coded))
        return aligned(self._codecs[header.supplement].nbytes(shape.coded, shape.channels))

    def decoding(self, header: Header, body: Tensor, out_NC: Tensor) -> quantise.Decoding | None:
        """Writes the raw tokens into `out_NC` (N, C) and returns the task that decodes the rest, if any.

        If the sender's tensor held NaN or Inf, all coded tokens become NaN.
        """
        shape = self.shape
        if raw := self._raw_tokens:
            out_NC[:raw] = body[: shape.nbytes(raw)].view(shape.dtype).view(raw, shape.channels)
            out_NC = out_NC[raw:]
        if self.codec == RAW:
            return None
        if not header.finite:
            out_NC.fill_(torch.nan)
            return None
        return quantise.Decoding(
            self._coded(body),
            self._codecs[self.codec],
            self._read_bases(),
            header.keep,
            header.predicted_from,
            header.k,
            out_NC,
        )

    def decoded(self, header: Header, x_hat_NC: Tensor | None, supplement: Tensor | None, out_NC: Tensor) -> None:
        """Applies the supplement, if there is one, to the result of the decoding task, in `out_NC` too, and advances by
        this message."""
        shape = self.shape
        if x_hat_NC is not None and header.supplement != NONE:
            if header.supplement == RAW:
                x_hat_NC = supplement[: shape.nbytes(shape.coded)].view(shape.dtype).view(x_hat_NC.shape).clone()
            else:
                codec = self._codecs[header.supplement]
                x_hat_NC = quantise.add_supplement(x_hat_NC, supplement[: codec.nbytes(*x_hat_NC.shape)], codec)
            out_NC[shape.exact :] = x_hat_NC
        self._advance(header, x_hat_NC)

    def check(self, header: Header, total: int) -> None:
        """Raises WireError unless `header` is that of the stream's next message and the body, whose checksum is
        `total`, is intact."""
        if header.checksum != total:
            raise WireError("The checksum of a payload does not match its content: it was damaged on the way.")
        expected = (self.codec, self._sequence, self.body_nbytes)
        got = (header.codec, header.sequence, header.length)
        if got != expected or header.predicted_from not in (0, len(self.bases)):
            raise WireError(
                f"A payload has (codec, sequence, bytes) {got} and was predicted from {header.predicted_from} bases "
                f"where {expected} and {len(self.bases)} are expected: sender and receiver do not hold the same state; "
                "every rank must see the same messages in the same order."
            )

    def _coded(self, body: Tensor) -> Tensor:
        return body.narrow(0, self._exact_nbytes, self._payload_nbytes)

    def _read_bases(self) -> tuple[Tensor, ...]:
        shape = self.shape
        return tuple(base.read(shape.coded, shape.channels, shape.dtype) for base in self.bases)

    def _advance(self, header: Header, x_hat_NC: Tensor | None) -> None:
        """Makes `x_hat_NC` the newest base; with None the stream drops all bases."""
        if x_hat_NC is None or not header.keep:
            self.bases = ()
        else:
            older = self.bases if header.predicted_from else ()
            self.bases = (Base.of(x_hat_NC, header.small_bases), *older)[: header.keep]
        self.held, self.keep = sum(base.nbytes for base in self.bases), header.keep
        if header.next_codec != self.codec:
            self._announce(header.next_codec)
        self._sequence = (self._sequence + 1) % 256


class Sender(Stream):
    """State of the sending end. Each message passes `encoding` and `encoded`; `encoded` advances the state."""

    def __init__(self, shape: Shape, first: int, codecs: Codecs, rate: Rate, policy: SendPolicy) -> None:
        super().__init__(shape, first, codecs)
        self._first = first
        self.policy = policy
        self._rate = rate
        self.calls = 0
        """Messages without NaN and Inf since the stream began, or began anew."""
        self._last_payload: tuple[int, Tensor] | None = None

    def encoding(self, x_NC: Tensor, body: Tensor) -> quantise.Encoding | None:
        """Writes the raw tokens of x (N, C) into `body` (uint8, zeros, `body_nbytes` long) and returns the task that
        encodes the other tokens; None if there are none."""
        if raw := self._raw_tokens:
            body[: self.shape.nbytes(raw)] = as_bytes(x_NC[:raw])
            x_NC = x_NC[raw:]
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
        )

    def encoded(self, task: quantise.Encoding | None, coded: quantise.Coded | None, body: Tensor, total: int) -> Sent:
        """Takes the result of the encoding task and advances by this message; `total` is the body's checksum.

        The error is not finite if the coded tokens hold NaN or Inf: then the header says so and the stream starts anew.
        """
        if task is None or coded is None:
            return self._sent(Sent(self._header(body, total, next_codec=RAW)), None)
        if not math.isfinite(coded.error):
            self.calls, self._last_payload = 0, None
            header = self._header(body, total, next_codec=self._first, finite=False)
            return self._sent(Sent(header, error=coded.error), None)
        self._last_payload = (self.codec, task.payload.clone()) if task.codec.warm_starts else None
        self.calls += 1
        number, supplement, x_hat_NC, error = self._supplement(task.x_NC, coded)
        last = LastMessage(*task.x_NC.shape, self.calls, self.codec, coded.missing, coded.error)
        header = self._header(
            body,
            total,
            next_codec=EIGHT_BITS if self.policy.eight_bits else self._rate.next(last),
            predicted_from=coded.used,
            k=coded.k,
            supplement=number,
            supplement_checksum=0 if supplement is None else checksums(supplement, [len(supplement)])[0],
        )
        closed = self.policy.closed_loop
        kept_NC = x_hat_NC if closed else task.x_NC.clone(memory_format=torch.contiguous_format)
        return self._sent(Sent(header, supplement, x_hat_NC, error), kept_NC)

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
        body: Tensor,
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
        self._advance(sent.header, kept_NC)
        return sent


def checksums(bodies: Tensor, sizes: Sequence[int]) -> list[int]:
    """The checksum of each body; `bodies` (uint8, aligned) holds them one after the other. The host waits once."""
    return [total % (1 << 32) for total in _sums(bodies, sizes).tolist()]


def read_with_checksums(held: Tensor, head: int, sizes: Sequence[int]) -> tuple[bytes, list[int]]:
    """The first `head` bytes of `held` (uint8, aligned), and the checksums of the bodies after it. One wait."""
    sums = _sums(held[head:], sizes)
    both = torch.cat([sums.view(torch.uint8), held[:head]]).cpu()
    split = sums.numel() * sums.element_size()
    return both[split:].numpy().tobytes(), [total % (1 << 32) for total in both[:split].view(sums.dtype).tolist()]


def _sums(bodies: Tensor, sizes: Sequence[int]) -> Tensor:
    """The sum of the 32-bit words of each body, int64; a checksum is this modulo 2**32."""
    words = bodies.view(torch.int32)
    if len(set(sizes)) == 1:
        return words.view(len(sizes), sizes[0] // 4).sum(1)
    return torch.stack([body.sum() for body in words.split_with_sizes([nbytes // 4 for nbytes in sizes])])


def _padded(payload: Tensor) -> Tensor:
    return torch.nn.functional.pad(payload, (0, aligned(len(payload)) - len(payload)))
