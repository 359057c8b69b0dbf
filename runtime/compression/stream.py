"""One residual stream: the same tensor of the same layer, call after call, at its sender or at one of its receivers.

Both ends hold the same state, because both advance it with the same function of the same bytes: the sender too rebuilds
what it sent from the payload. What a codec loses re-enters the next residual (closed loop, "error feedback" in
CompactFusion, arXiv 2507.17511), so errors do not add up.

Legend: N tokens, C channels, E exact tokens (sent raw).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunks import row_chunks
from .codecs import BY_IDENT, BY_NAME
from .header import RAW, Header, WireError
from .predict import fit, predict

WARMUP = BY_NAME["int8"].ident
ALIGNMENT = 16
"""Bodies start and end at multiples of so many bytes, whatever they hold."""
SMALLEST_SQUARE = 1e-30


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Shape:
    """What a stream carries: (tokens, channels) values of `dtype`, of which the first `exact` tokens travel raw."""

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

    def nbytes(self, tokens: int) -> int:
        """Bytes of so many raw tokens."""
        return tokens * self.channels * self.dtype.itemsize

    @property
    def base_nbytes(self) -> int:
        """Bytes of one base."""
        return self.nbytes(self.coded)


@dataclass(frozen=True)
class Plan:
    """What the sender of a stream wants: `codec` number after `warmup_calls` calls, `keep` bases; `closed_loop` or, for
    comparison only, the true tensor as its base (the errors it reports are then smaller than the receivers')."""

    codec: int
    keep: int
    warmup_calls: int = 1
    closed_loop: bool = True

    def codec_after(self, calls: int) -> int:
        """Codec of the message that follows `calls` finite ones."""
        return WARMUP if calls < self.warmup_calls and self.codec != RAW else self.codec


NO_LOSS = Plan(codec=RAW, keep=0)


class Stream:
    """State of one end. A sender (it has a plan) calls `encode`, a receiver `decode`; both advance by one message."""

    def __init__(self, shape: Shape, plan: Plan = NO_LOSS) -> None:
        self.shape = shape
        self.codec = WARMUP if shape.base_nbytes else RAW
        """Codec of the next message."""
        self.bases: tuple[Tensor, ...] = ()
        """The last reconstructions, newest first: (N - E, C) in the tensor's dtype."""
        self.keep = 0
        """Bases to hold at most."""
        self._plan = plan
        self._sequence = 0
        self._since_start = 0

    @property
    def held(self) -> int:
        """Bytes that the bases hold."""
        return len(self.bases) * self.shape.base_nbytes

    @property
    def promised(self) -> int:
        """Bytes that they may come to hold."""
        return self.keep * self.shape.base_nbytes

    @property
    def body_nbytes(self) -> int:
        """Bytes of the next message's body: E raw tokens, then the coded ones, each part aligned."""
        shape = self.shape
        if self.codec == RAW:
            return aligned(shape.nbytes(shape.tokens))
        return aligned(shape.nbytes(shape.exact)) + aligned(BY_IDENT[self.codec].nbytes(shape.coded, shape.channels))

    def encode(self, x_NC: Tensor, body: Tensor) -> tuple[Header, float]:
        """Writes x (N, C) into `body` (uint8, zeros, `body_nbytes` long) and advances.

        Returns the header and the relative error ||x - x_hat|| / ||x|| of the coded tokens. It is not finite if they
        hold NaN or Inf: then the header says so and the stream starts anew.
        """
        raw = x_NC if self.codec == RAW else x_NC[: self.shape.exact]
        body[: self.shape.nbytes(len(raw))] = as_bytes(raw)
        if self.codec == RAW:
            return self._sent(body, bases=()), 0.0
        x_NC = x_NC[self.shape.exact :]
        payload, used, k, gain, x_hat_NC, error = self._quantise(x_NC.float())
        if not math.isfinite(error):
            return self._sent(body, bases=(), finite=False), error
        self._coded(body)[:] = payload
        kept = x_hat_NC if self._plan.closed_loop else x_NC.clone()
        return self._sent(body, (kept, *used), predicted_from=len(used), k=k, gain=gain), error

    def decode(self, header: Header, body: Tensor, out_NC: Tensor) -> None:
        """Writes the tensor that a checked message stands for into `out_NC` (N, C) and advances.

        Where the sender met NaN or Inf all coded tokens are NaN.
        """
        shape = self.shape
        raw = out_NC if self.codec == RAW else out_NC[: shape.exact]
        raw.copy_(body[: shape.nbytes(len(raw))].view(shape.dtype).view(raw.shape))
        bases = ()
        if self.codec == RAW:
            self._advance(header, bases)
            return
        if header.finite:
            residual_NC = BY_IDENT[self.codec].decode(self._coded(body), shape.coded, shape.channels, torch.float32)
            used = self.bases[: header.predicted_from]
            x_hat_NC = _rebuild(residual_NC, header.gain, used, header.k, shape.dtype)
            bases = (x_hat_NC, *used)
            out_NC[shape.exact :] = x_hat_NC
        else:
            out_NC[shape.exact :] = torch.nan
        self._advance(header, bases)

    def check(self, header: Header, body: Tensor) -> None:
        """Raises WireError unless this is the intact next message of the stream."""
        if header.checksum != checksum(body):
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
        start = aligned(self.shape.nbytes(self.shape.exact))
        return body[start : start + BY_IDENT[self.codec].nbytes(self.shape.coded, self.shape.channels)]

    def _quantise(self, x_NC: Tensor) -> tuple[Tensor, tuple[Tensor, ...], float, float, Tensor, float]:
        """Payload, bases used, k, gain, reconstruction and relative error of x (N - E, C) float32.

        Bases that are no nearer to x than zero is are of no use (another picture, a spike before): x itself is sent.
        """
        codec = BY_IDENT[self.codec]
        k, norm, missing = fit(x_NC, self.bases)
        bases = self.bases if missing < norm else ()
        residual_NC = _subtract(x_NC, bases, k)
        payload = codec.encode(residual_NC)
        decoded_NC = codec.decode(payload, *residual_NC.shape, torch.float32)
        gain = _gain(residual_NC, decoded_NC)
        x_hat_NC = _rebuild(decoded_NC, gain, bases, k, self.shape.dtype)
        return payload, bases, k, gain, x_hat_NC, _relative_error(x_NC, x_hat_NC, norm)

    def _sent(
        self,
        body: Tensor,
        bases: tuple[Tensor, ...],
        predicted_from: int = 0,
        finite: bool = True,
        k: float = 0.0,
        gain: float = 1.0,
    ) -> Header:
        calls = self._since_start + 1 if finite else 0
        header = Header(
            codec=self.codec,
            predicted_from=predicted_from,
            next_codec=self._plan.codec_after(calls) if self.shape.base_nbytes else RAW,
            keep=self._plan.keep,
            finite=finite,
            sequence=self._sequence,
            k=k,
            gain=gain,
            length=len(body),
            checksum=checksum(body),
        )
        self._since_start = calls
        self._advance(header, bases)
        return header

    def _advance(self, header: Header, bases: tuple[Tensor, ...]) -> None:
        self.codec, self.keep = header.next_codec, header.keep
        self.bases = bases[: self.keep]
        self._sequence = (self._sequence + 1) % 256


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor, 1-D uint8: a view where it is contiguous."""
    return x.reshape(-1).view(torch.uint8)


def checksum(body: Tensor) -> int:
    """Sum of the 32-bit words of `body` (uint8, aligned), modulo 2**32."""
    return int(body.view(torch.int32).sum()) % (1 << 32)


def _subtract(x_NC: Tensor, bases: tuple[Tensor, ...], k: float) -> Tensor:
    """x less what is expected of it, float32; x itself where nothing is."""
    if not bases:
        return x_NC
    residual_NC = torch.empty_like(x_NC)
    for rows in row_chunks(*x_NC.shape, x_NC.device):
        torch.sub(x_NC[rows], predict(bases, k, rows), out=residual_NC[rows])
    return residual_NC


def _rebuild(residual_NC: Tensor, gain: float, bases: tuple[Tensor, ...], k: float, dtype: torch.dtype) -> Tensor:
    """The reconstruction (N - E, C) in `dtype`, the same bits at both ends. Overwrites the residual."""
    largest = torch.finfo(dtype).max
    for rows in row_chunks(*residual_NC.shape, residual_NC.device):
        part = residual_NC[rows].mul_(gain)
        if bases:
            part.add_(predict(bases, k, rows))
        part.clamp_(-largest, largest)
    return residual_NC.to(dtype)


def _gain(residual_NC: Tensor, decoded_NC: Tensor) -> float:
    """The factor of the decoded residual with the least squared error, a float32; 1 where it has none.

    It makes every codec a contraction: what is left is never larger than the residual, even where a codec misjudges
    the data (one outlier token and one outlier channel that cross make the squared error of 1 bit 47 times the data's
    own without it).
    """
    r, d = residual_NC.view(-1), decoded_NC.view(-1)
    return float((torch.dot(r, d) / torch.dot(d, d)).nan_to_num(1, 1, 1))


def _relative_error(x_NC: Tensor, x_hat_NC: Tensor, norm: float) -> float:
    """||x - x_hat|| / ||x||, where `norm` is ||x||^2 in float32."""
    lost = torch.zeros((), device=x_NC.device)
    for rows in row_chunks(*x_NC.shape, x_NC.device):
        difference = (x_NC[rows] - x_hat_NC[rows]).view(-1)
        lost += torch.dot(difference, difference)
    if float(lost) > SMALLEST_SQUARE and norm < math.inf:
        return math.sqrt(float(lost) / norm)
    wide = [float(torch.linalg.vector_norm(y, dtype=torch.float64)) for y in (x_NC - x_hat_NC, x_NC)]
    return wide[0] / (wide[1] or 1.0)
