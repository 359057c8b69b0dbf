"""Records bytes, seconds, errors and codecs of a run: one `Ledger` per rank and job, merged by `run_report`.

Seconds are wall seconds of the host. Bytes are bytes put on links; a rank's local shard, which stays where it is, does
not count.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from . import self_check as checks
from .self_check import SelfCheck

MODEL = "model"
COMPUTE = "compute"
EXPOSED = "exposed"
BITS_UNCOMPRESSED = 16


@dataclass
class _Record:
    """The figures of one model call on one rank, summed up."""

    sigma: float | None = None
    bytes_sent: int = 0
    bytes_uncompressed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    hidden_seconds: float = 0.0
    tensors: int = 0
    bits_sum: float = 0.0
    codecs: dict[str, int] = field(default_factory=dict)
    max_error: float | None = None


@dataclass
class _Shared:
    """How often a kind of parallelism divided its work, how often it did not, and why not."""

    divided: int = 0
    whole: int = 0
    reasons: list[str] = field(default_factory=list)


class Ledger:
    """The record of one rank in one job. Not shared between threads."""

    def __init__(self) -> None:
        self.call = -1
        """The index of the current model call; -1 before the first."""
        self._calls: dict[int, _Record] = {}
        self._current = self._outside = _Record()
        self._inner_seconds: list[float] = []
        self._base_bytes = 0
        self._corrections = 0
        self._totals = [0, 0]
        self.first_not_finite = ""
        """Where a tensor to be sent, or one received, first held NaN or Inf; "" if none did."""
        self.self_check: SelfCheck | None = None
        """The finding of the self-check; None if none was asked for."""
        self._warnings: dict[str, None] = {}
        self._asked: Counter[int] = Counter()
        self._shared: dict[str, _Shared] = {}

    def begin_call(self, index: int, sigma: float) -> None:
        """Begins model call `index` (from 0) at noise level `sigma`; what is recorded from now on belongs to it."""
        self.call = index
        self._current = self._calls.setdefault(index, _Record(sigma=float(sigma) if math.isfinite(sigma) else None))

    def sent(self, nbytes: int, nbytes_uncompressed: int) -> None:
        """Adds bytes that this rank sent; at 16 bits per value the same tensors have `nbytes_uncompressed`."""
        self._current.bytes_sent += int(nbytes)
        self._current.bytes_uncompressed += int(nbytes_uncompressed)
        self._totals[0] += int(nbytes)
        self._totals[1] += int(nbytes_uncompressed)

    def totals(self) -> tuple[int, int]:
        """(bytes that this rank has sent so far, bytes of the same tensors at 16 bits per value)."""
        return self._totals[0], self._totals[1]

    def not_finite(self, place: str) -> None:
        """Records where a tensor that crosses a link held NaN or Inf; the first such place is kept."""
        self.first_not_finite = self.first_not_finite or place

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the wall seconds of the `with` block to phase `name`.

        In nested phases seconds count for the inner phase only. So the phases of a call add up to its time, and the
        outermost phase, "model", keeps the seconds that are not "encode", "decode" or "exposed": the compute.
        """
        record = self._current
        self._inner_seconds.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            own = elapsed - self._inner_seconds.pop()
            record.seconds[name] = record.seconds.get(name, 0.0) + own
            record.evaluations += name == MODEL
            if self._inner_seconds:
                self._inner_seconds[-1] += elapsed

    def corrected(self) -> None:
        """Counts a call at which the ranks' latents differed, so that all took the latent of rank 0."""
        self._corrections += 1

    def hidden(self, seconds: float) -> None:
        """Adds seconds of communication that overlapped with compute, so that nobody waited for it."""
        self._current.hidden_seconds += seconds

    def stream_error(self, relative_error: float, bits: float, codec: str) -> None:
        """Records an encoded tensor: ||x - x_hat|| / ||x||, the bits sent per value, and the codec's name.

        An error that is not finite becomes a warning and is left out.
        """
        record = self._current
        record.tensors += 1
        record.bits_sum += float(bits)
        record.codecs[codec] = record.codecs.get(codec, 0) + 1
        if math.isfinite(relative_error):
            record.max_error = max(record.max_error or 0.0, float(relative_error))
        else:
            self.warn("The error of a compressed tensor is not a finite number.")

    def base_bytes(self, nbytes: int) -> None:
        """Records that residual bases hold `nbytes` at present; the largest value is kept."""
        self._base_bytes = max(self._base_bytes, int(nbytes))

    def asked(self, conditions: int) -> None:
        """Counts a call in which the guider asked for the predictions of this many conditions at once."""
        self._asked[conditions] += 1

    def shared(self, kind: str, divided: bool, reason: str = "") -> None:
        """Counts one opportunity for a `kind` of parallelism: whether it divided its work or, for a `reason`, not."""
        shared = self._shared.setdefault(kind, _Shared())
        shared.divided += divided
        shared.whole += not divided
        if reason and reason not in shared.reasons:
            shared.reasons.append(reason)

    def warn(self, sentence: str) -> None:
        """Adds a warning for the user; the same sentence is kept only once."""
        self._warnings[sentence] = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values, with the calls in order of their indices."""
        return {
            "calls": [{"index": index, **asdict(record)} for index, record in sorted(self._calls.items())],
            "outside": asdict(self._outside),
            "base_bytes": self._base_bytes,
            "corrections": self._corrections,
            "warnings": list(self._warnings),
            "self_check": self.self_check and self.self_check.to_json(),
            "asked": {str(conditions): calls for conditions, calls in sorted(self._asked.items())},
            "shared": {kind: asdict(shared) for kind, shared in self._shared.items()},
        }


def _unique(sentences: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(sentences))


def _maximum(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _bits(records: Sequence[dict[str, Any]]) -> float:
    """Mean bits per value of the encoded tensors; without any, computed from the bytes; 0 if nothing was sent."""
    tensors = sum(record["tensors"] for record in records)
    if tensors:
        return sum(record["bits_sum"] for record in records) / tensors
    uncompressed = sum(record["bytes_uncompressed"] for record in records)
    return BITS_UNCOMPRESSED * sum(record["bytes_sent"] for record in records) / uncompressed if uncompressed else 0.0


def _codecs(records: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Number of encoded tensors by codec."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record["codecs"])
    return dict(total)


def _phases(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds per phase; the rest of phase "model" is called "compute"."""
    total: dict[str, float] = {}
    for record in records:
        for name, seconds in record["seconds"].items():
            key = COMPUTE if name == MODEL else name
            total[key] = total.get(key, 0.0) + seconds
    return total


def run_report(
    ledgers: Sequence[dict[str, Any]],
    *,
    run_id: str,
    model: str,
    devices: Sequence[str],
    strategy: dict[str, Any],
    compression: dict[str, Any],
    seconds: float,
    sampling_seconds: float,
    step_reuse: dict[str, Any] | None = None,
    accepted: Sequence[int] | None = None,
    restarts: int = 0,
    resumed_calls: int = 0,
    fallbacks: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The report of one run, merged from every rank's `Ledger.to_json()`. Plain JSON values, no NaN.

    Args:
        ledgers: one per rank, in rank order.
        devices: one per rank.
        strategy, compression, step_reuse: as chosen, in their JSON form.
        seconds: of the whole job as the parent measured it; `sampling_seconds`: of the sampler alone.
        accepted: committed calls per round of step reuse; without it every call is a round of its own.
    Bytes are sums over ranks. `exposed_seconds` and `hidden_seconds` are the maximum over ranks, because ranks wait at
    the same time; `phases` has the seconds of every rank. Errors are the maximum over ranks.
    """
    per_rank = [[ledger["outside"], *ledger["calls"]] for ledger in ledgers]
    indices = sorted({call["index"] for ledger in ledgers for call in ledger["calls"]})
    by_call = [[call for ledger in ledgers for call in ledger["calls"] if call["index"] == index] for index in indices]
    phases = [_phases(records) for records in per_rank]
    everything = [record for records in per_rank for record in records]
    hidden_seconds = [sum(record["hidden_seconds"] for record in records) for records in per_rank]
    bytes_sent = sum(record["bytes_sent"] for record in everything)
    bytes_uncompressed = sum(record["bytes_uncompressed"] for record in everything)
    accepted = [1] * len(indices) if accepted is None else list(accepted)
    self_check = checks.merged([ledger["self_check"] for ledger in ledgers])
    told = [*checks.warnings(self_check), *(sentence for ledger in ledgers for sentence in ledger["warnings"])]
    return {
        "run_id": run_id,
        "model": model,
        "workers": len(ledgers),
        "devices": list(devices),
        "strategy": strategy,
        "compression": compression,
        "step_reuse": step_reuse or {"mode": "off"},
        "calls": len(indices),
        "rounds": len(accepted),
        "accepted": accepted,
        "evaluations_per_rank": [sum(record["evaluations"] for record in records) for records in per_rank],
        "seconds": seconds,
        "sampling_seconds": sampling_seconds,
        "bytes_sent": bytes_sent,
        "bytes_uncompressed": bytes_uncompressed,
        "effective_ratio": bytes_uncompressed / bytes_sent if bytes_sent else None,
        "exposed_seconds": max((rank.get(EXPOSED, 0.0) for rank in phases), default=0.0),
        "hidden_seconds": max(hidden_seconds, default=0.0),
        "bits": [_bits(records) for records in by_call],
        "max_relative_error": _maximum([record["max_error"] for record in everything]),
        "restarts": restarts,
        "resumed_calls": resumed_calls,
        "self_check": self_check and self_check.to_json(),
        "fallbacks": _unique(fallbacks),
        "warnings": _unique([*warnings, *told]),
        "sigmas": [records[0]["sigma"] for records in by_call],
        "codecs_per_call": [_codecs(records) for records in by_call],
        "bytes_sent_per_call": [sum(record["bytes_sent"] for record in records) for records in by_call],
        "bytes_uncompressed_per_call": [sum(record["bytes_uncompressed"] for record in records) for records in by_call],
        "error_per_call": [_maximum([record["max_error"] for record in records]) for records in by_call],
        "seconds_per_call": [max(sum(record["seconds"].values()) for record in records) for records in by_call],
        "phases": phases,
        "base_bytes": max((ledger["base_bytes"] for ledger in ledgers), default=0),
        "corrections": max((ledger["corrections"] for ledger in ledgers), default=0),
    }
