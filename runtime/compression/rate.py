"""How many bits the next message of a stream gets. The sender decides after each message and announces it in that one.

Legend: N tokens, C channels, b bits per value, r = ||x - expected||^2 / ||x||^2 (what is left to send), D(b) the part
of it that b bits lose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .codecs import BY_NAME

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

SCALAR = {"skip": 0, "1bit": 1, "2bit": 2, "3bit": 3, "4bit": 4, "int8": 8}
"""What `ratio` and `quality` choose from: bits by codec name, the coarsest first."""
DISTORTION = {"skip": 1.0, "1bit": 0.363, "2bit": 0.1175, "3bit": 0.0345, "4bit": 0.0095, "int8": 3e-5}
"""D(b) of a Gaussian residual (Max 1960)."""
MARGIN = 0.8
"""The part of an error bound that is planned for: the residual of the next call may be larger than this one's."""
WARMUP_SHARE = 0.4
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
        name = next((name for name in SCALAR if DISTORTION[name] <= allowed), "int8")
        return BY_NAME[name].ident


class RatioRate:
    """Meets an effective ratio over the run, warm-up and everything else that is sent counted.

    What may still be spent is shared out by reverse water-filling (Cover & Thomas, Elements of Information Theory,
    10.3.3): b = budget + (log2 r - mean log2 r) / 2, which makes the errors of all tensors and calls equal. As the
    budget is counted anew for every message, rounding b to a codec does not add up.
    """

    bound = None

    def __init__(self, ratio: float, warmup_codec: str, warmup_calls: int, expected_calls: int, ledger: Ledger) -> None:
        self._ratio = ratio
        self._expected_calls = max(1, expected_calls)
        self._ledger = ledger
        self._log_sum, self._logs = 0.0, 0
        per_call = WARMUP_SHARE * 16 / ratio * self._expected_calls / min(warmup_calls, self._expected_calls)
        bits = min(SCALAR[warmup_codec], per_call) if warmup_codec in SCALAR else per_call
        self.first = BY_NAME[[name for name, b in SCALAR.items() if b <= max(1.0, bits)][-1]].ident
        self._warmup_calls = warmup_calls

    def next(self, seen: Seen) -> int:
        """See `Rate.next`."""
        if seen.calls < self._warmup_calls:
            return self.first
        log = math.log2(max(seen.missing**2, 1e-12))
        self._log_sum, self._logs = self._log_sum + log, self._logs + 1
        wanted = self._budget(seen.calls) + (log - self._log_sum / self._logs) / 2
        cost = {name: BY_NAME[name].bits(seen.tokens, seen.channels) for name in SCALAR}
        return BY_NAME[min(SCALAR, key=lambda name: abs(cost[name] - wanted))].ident

    def _budget(self, calls: int) -> float:
        """Bits per value that the rest of the run may have: what is sent in a run hardly changes from call to call."""
        sent, uncompressed = self._ledger.totals()
        if not uncompressed:
            return 16 / self._ratio
        rest = max(1.0, self._expected_calls - calls) / calls
        return 16 * ((1 + rest) / self._ratio - sent / uncompressed) / rest


def _excess(seen: Seen) -> float:
    """How many times the Gaussian's distortion this message had."""
    name = next((name for name in SCALAR if BY_NAME[name].ident == seen.codec), None)
    if name is None or not seen.missing:
        return 1.0
    return min(10.0, max(0.1, (seen.error / seen.missing) ** 2 / DISTORTION[name]))


def make_rate(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Rate:
    """The rule that a config asks for; `expected_calls` is how often the sampler will ask the model."""
    match config.mode:
        case "ratio":
            return RatioRate(config.ratio, config.warmup_codec, config.warmup_calls, expected_calls, ledger)
        case "quality":
            return QualityRate(config.max_relative_error, config.warmup_codec)
        case _:
            return FixedRate(config.codec, config.warmup_codec, config.warmup_calls)
