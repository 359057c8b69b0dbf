"""What a run needs on a worker's card besides the weights, before anything is loaded.

ComfyUI estimates the activations of a call for one process that evaluates it whole. A worker evaluates a share of it,
and holds what ComfyUI does not know of: residual bases, the keys and values of displaced attention, the buffers of the
communication library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..compression.base_budget import GIB
from ..compression.predict import ORDERS
from ..config import CompressionConfig
from ..parallel.mesh import Degrees
from .facts import JobFacts

NOT_SPLIT = 0.1
"""The part of a split call's activations that every worker has whole: the keys and values of one layer, which are 2 of
the some 20 tensors of a token's width at the model's widest place."""
NCCL_BYTES = 256 << 20
"""What NCCL takes for a run's groups of workers, at its usual number of channels."""


@dataclass(frozen=True)
class MemoryNeed:
    """What one worker needs.

    Args:
        share: the part of the activations of a call with two conditions, as ComfyUI estimates them.
        share_of_one: the part of those of a call with one.
        reserved: bytes of which ComfyUI does not know.
    """

    share: float = 1.0
    share_of_one: float = 1.0
    reserved: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MemoryNeed:
        """The inverse of `to_json`."""
        return cls(**data)


def memory_need(facts: JobFacts, strategies: Sequence[Degrees], compression: CompressionConfig) -> MemoryNeed:
    """The need of a job that is shared by each of these degrees at one time or another, each with a wire of its own."""
    return MemoryNeed(
        max(_share(facts, degrees, conditions=2) for degrees in strategies),
        max(_share(facts, degrees, conditions=1) for degrees in strategies),
        sum(_reserved(facts, degrees, compression) for degrees in strategies if degrees.sequence > 1),
    )


def communication_bytes(backend: str, world: int) -> int:
    """What the communication library takes of every card; gloo has its buffers on the host."""
    return NCCL_BYTES if backend == "nccl" and world > 1 else 0


def _share(facts: JobFacts, degrees: Degrees, conditions: int) -> float:
    tokens = 1 / degrees.sequence
    tokens += NOT_SPLIT * (1 - tokens)
    return tokens * _entries(facts, degrees, conditions) / (conditions * facts.batch)


def _entries(facts: JobFacts, degrees: Degrees, conditions: int) -> int:
    """How many of conditions x batch entries one worker evaluates."""
    data = 1 if facts.sees_batch else degrees.data
    return math.ceil(conditions / degrees.cfg) * math.ceil(facts.batch / data)


def _reserved(facts: JobFacts, degrees: Degrees, compression: CompressionConfig) -> int:
    most = int(compression.base_memory_gb * GIB)
    bases = max(ORDERS.values()) if compression.predictor == "auto" else ORDERS[compression.predictor]
    if facts.model.exchanged_bytes is None:
        return most if compression.enabled and bases else 0
    exchanged = facts.model.exchanged_bytes * _entries(facts, degrees, facts.asked.usual)
    reserved = min(most, bases * exchanged) if compression.enabled else 0
    if degrees.ring > 1 and degrees.ring_exchange == "displaced":
        reserved += exchanged + exchanged // degrees.ring  # the last call's, and the own ones that are under way
    return reserved
