"""How many bits the next message of a stream gets. The sender decides after each message and announces it in that one.

Legend: N tokens, C channels, b bits per value, r = ||x - expected||^2 / ||x||^2 (what is left to send), D(b) the part
of it that b bits lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .codecs import BY_IDENT, BY_NAME, COARSE_TO_EXACT, TYPICAL

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

LADDER = tuple(BY_NAME[name] for name in COARSE_TO_EXACT if BY_NAME[name].distortion is not None)
"""What `quality` and supplements choose from: the codecs whose D(b) is known, the coarsest first."""
_IN_RATIO = [codec for codec in BY_NAME.values() if codec.in_ratio]
BUDGETED = tuple(sorted(_IN_RATIO, key=lambda codec: codec.bits(*TYPICAL)))
"""What `ratio` chooses from; of two that are equally near the budget the coarser."""
MARGIN = 0.8
"""The part of an error bound that is planned for: the residual of the next call may be larger than this one's."""
WARMUP_SHARE = 0.6
"""The part of all bits that the warm-up may take where a ratio is asked for."""


@dataclass(frozen=True)
class Seen:
    """What the sender of a stream knows after a message: of (N, C) values, `calls` messages since the stream began."""

    tokens: int
    channels: int
    calls: int
    codec: int
    missing: float
    """sqrt(r) of this message."""
    error: float
    """||x - x_hat|| / ||x|| of this message, before any supplement."""


class Rate(Protocol):
    """The rule of one run."""

    first: int
    """Number of the codec of every stream's first message; equal on all ranks, as receivers must know it too."""
    bound: float | None
    """The largest relative error a message may have; beyond it the sender adds a supplement."""

    def next(self, seen: Seen) -> int:
        """Number of the codec of the message after this one."""


class FixedRate:
    """One codec after the warm-up."""

    bound = None

    def __init__(self, codec: str, warmup_codec: str, warmup_calls: int) -> None:
        self.first = BY_NAME[warmup_codec].ident
        self._codec = BY_NAME[codec].ident
        self._warmup_calls = warmup_calls

    def next(self, seen: Seen) -> int:
        """See `Rate.next`."""
        return self.first if seen.calls < self._warmup_calls else self._codec


class QualityRate:
    """The fewest bits with D(b) r <= (MARGIN bound)^2, where r is expected to stay what it was.

    D is the Gaussian's times how much worse (or better) this stream's last message did than a Gaussian would.
    """

    def __init__(self, bound: float, warmup_codec: str) -> None:
        self.first = BY_NAME[warmup_codec].ident
        self.bound = bound

    def next(self, seen: Seen) -> int:
        """See `Rate.next`."""
        allowed = (MARGIN * self.bound) ** 2 / max(seen.missing**2 * _excess(seen), 1e-30)
        return next((codec for codec in LADDER if codec.distortion <= allowed), LADDER[-1]).ident


class RatioRate:
    """Meets an effective ratio over the run, warm-up and everything else that is sent counted.

    What may still be spent is shared out evenly over what is still to be sent, and counted anew for every message, so
    rounding to a codec does not add up. Evenly beat reverse water-filling (which makes all relative errors equal) by 3
    to 6 dB on the trained model: tensors that change little are those the picture depends on most. The first messages
    matter most of all, so the warm-up gets fewer calls before it gets fewer bits.
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

    def next(self, seen: Seen) -> int:
        """See `Rate.next`."""
        if seen.calls < self._warmup_calls:
            return self.first
        budget = self._budget(seen.calls)
        return min(BUDGETED, key=lambda codec: abs(codec.bits(seen.tokens, seen.channels) - budget)).ident

    def _budget(self, calls: int) -> float:
        """Bits per value that the rest of the run may have: what is sent in a run hardly changes from call to call."""
        sent, uncompressed = self._ledger.totals()
        if not uncompressed:
            return 16 / self._ratio
        rest = max(1.0, self._expected_calls - calls) / calls
        return 16 * ((1 + rest) / self._ratio - sent / uncompressed) / rest


def _excess(seen: Seen) -> float:
    """How many times the Gaussian's distortion this message had."""
    distortion = BY_IDENT[seen.codec].distortion
    if distortion is None or not seen.missing:
        return 1.0
    return min(10.0, max(0.1, (seen.error / seen.missing) ** 2 / distortion))


def make_rate(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Rate:
    """The rule that a config asks for; `expected_calls` is how often the sampler will ask the model."""
    match config.mode:
        case "ratio":
            return RatioRate(config, max(1, expected_calls), ledger)
        case "quality":
            return QualityRate(config.max_relative_error, config.warmup_codec)
        case _:
            return FixedRate(config.codec, config.warmup_codec, config.warmup_calls)
