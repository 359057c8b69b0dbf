"""Rate control: chooses the codec of a stream's next message.

The sender decides after it has encoded a message, and announces the next codec in the header of that message.

Legend: N tokens, C channels, b bits per value, r = ||x - expected||^2 / ||x||^2 (the residual's share of the energy),
D(b) the distortion: the part of the residual's energy that b bits lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .codecs import BY_IDENT, BY_NAME, COARSE_TO_EXACT, TYPICAL

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

LADDER = tuple(BY_NAME[name] for name in COARSE_TO_EXACT if BY_NAME[name].distortion is not None)
"""The codecs that `quality` and supplements choose from: those whose D(b) is known, the coarsest first."""
_IN_RATIO = [codec for codec in BY_NAME.values() if codec.in_ratio]
BUDGETED = tuple(sorted(_IN_RATIO, key=lambda codec: codec.bits(*TYPICAL)))
"""The codecs that `ratio` chooses from. If two are equally near the budget, the coarser one is taken."""
MARGIN = 0.8
"""`quality` aims at this part of the error bound, because the next call's residual may be larger than this one's."""
WARMUP_SHARE = 0.6
"""The part of all bits that the warm-up may take in mode `ratio`."""


@dataclass(frozen=True)
class LastMessage:
    """The state of a stream at its sender after a message of (N, C) values, `calls` messages since the stream began."""

    tokens: int
    channels: int
    calls: int
    codec: int
    missing: float
    """sqrt(r) of this message."""
    error: float
    """||x - x_hat|| / ||x|| of this message, before any supplement."""


class Rate(Protocol):
    """The rule by which the streams of one run get their codecs."""

    first: int
    """Number of the codec of every stream's first message; equal on all ranks, because receivers must know it too."""
    bound: float | None
    """The largest relative error that a message may have; if it is larger, the sender adds a supplement."""

    def next(self, last: LastMessage) -> int:
        """Number of the codec of the message after this one."""


class FixedRate:
    """Uses one codec after the warm-up."""

    bound = None

    def __init__(self, codec: str, warmup_codec: str, warmup_calls: int) -> None:
        self.first = BY_NAME[warmup_codec].ident
        self._codec = BY_NAME[codec].ident
        self._warmup_calls = warmup_calls

    def next(self, last: LastMessage) -> int:
        """See `Rate.next`."""
        return self.first if last.calls < self._warmup_calls else self._codec


class QualityRate:
    """Chooses the fewest bits with D(b) r <= (MARGIN bound)^2, assuming that r stays as it was in the last message.

    D is the distortion for a Gaussian, times the factor by which this stream's last message was worse (or better) than
    that.
    """

    def __init__(self, bound: float, warmup_codec: str) -> None:
        self.first = BY_NAME[warmup_codec].ident
        self.bound = bound

    def next(self, last: LastMessage) -> int:
        """See `Rate.next`."""
        allowed = (MARGIN * self.bound) ** 2 / max(last.missing**2 * _excess(last), 1e-30)
        return next((codec for codec in LADDER if codec.distortion <= allowed), LADDER[-1]).ident


class RatioRate:
    """Meets an effective ratio over the run, with the warm-up and everything else that is sent counted.

    The bytes that are left are spread evenly over the values still to be sent. This is computed anew for every message,
    so errors from rounding to a codec do not add up. Even spreading beat reverse water-filling (which makes all
    relative errors equal) by 3 to 6 dB on the trained model: tensors that change little are those the picture depends
    on most. The first messages matter most of all, so the warm-up first gets fewer calls, and only then fewer bits.
    """

    bound = None

    def __init__(self, config: CompressionConfig, expected_calls: int, ledger: Ledger) -> None:
        self._ratio = config.ratio
        self._expected_calls = expected_calls
        self._ledger = ledger
        room = WARMUP_SHARE * 16 / config.ratio * expected_calls
        most = BY_NAME[config.warmup_codec].value_bits or LADDER[-1].value_bits
        coarser = [codec for codec in LADDER if 1 <= codec.value_bits <= most]
        ways = [(codec, calls) for codec in reversed(coarser) for calls in range(config.warmup_calls, 0, -1)]
        codec, self._warmup_calls = next((way for way in ways if way[0].value_bits * way[1] <= room), ways[-1])
        self.first = codec.ident

    def next(self, last: LastMessage) -> int:
        """See `Rate.next`."""
        if last.calls < self._warmup_calls:
            return self.first
        budget = self._budget(last.calls)
        return min(BUDGETED, key=lambda codec: abs(codec.bits(last.tokens, last.channels) - budget)).ident

    def _budget(self, calls: int) -> float:
        """Bits per value that the rest of the run may use, assuming that each call sends about the same tensors."""
        sent, uncompressed = self._ledger.totals()
        if not uncompressed:
            return 16 / self._ratio
        rest = max(1.0, self._expected_calls - calls) / calls
        return 16 * ((1 + rest) / self._ratio - sent / uncompressed) / rest


def _excess(last: LastMessage) -> float:
    """The distortion of this message as a multiple of a Gaussian's, from 0.1 to 10."""
    distortion = BY_IDENT[last.codec].distortion
    if distortion is None or not last.missing:
        return 1.0
    return min(10.0, max(0.1, (last.error / last.missing) ** 2 / distortion))


def make_rate(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Rate:
    """The rule for the mode of `config`; `expected_calls` is how often the sampler will call the model."""
    match config.mode:
        case "ratio":
            return RatioRate(config, max(1, expected_calls), ledger)
        case "quality":
            return QualityRate(config.max_relative_error, config.warmup_codec)
        case _:
            return FixedRate(config.codec, config.warmup_codec, config.warmup_calls)
