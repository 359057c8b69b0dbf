"""Decides, on all workers together, which state changes of a run return to the parent, or raises why they cannot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from ...parallel.all_gather_texts import all_gather_texts
from ...parallel.mesh import Degrees
from ...pool.errors import NotReturned
from ...pool.store import Store
from .facets import CannotReturn
from .pickling import ShippingError
from .return_trip import without_resources, write_changes
from .sampling_job import SamplingJob
from .state_changes import Watch
from .state_digests import StateDigest, digests_of, disagreements

_WAY_OUT = 'set on_unsupported of Parallel Model to "run on one device"'


@dataclass(frozen=True)
class _Told:
    """One worker's message to the others; `refused`: why its changes cannot return."""

    refused: str = ""
    digests: list[StateDigest] = field(default_factory=list)

    def to_text(self) -> str:
        return json.dumps(asdict(self)) if self.refused or self.digests else ""

    @classmethod
    def from_text(cls, text: str) -> _Told:
        told = json.loads(text) if text else {"refused": "", "digests": []}
        return cls(told["refused"], [StateDigest(**{**one, "place": tuple(one["place"])}) for one in told["digests"]])


def agreed_changes(watch: Watch, job: SamplingJob, rank: int, store: Store) -> bytes:
    """The changes of this run as bytes for `return_trip.make_changes` on worker 0; b"" on the others.

    If workers differ in state that ComfyUI's own code keeps between the calls of one run, that state does not return,
    and the parent's stays as it was. Collective. Raises NotReturned on all workers if a change cannot return: it cannot
    be sent, the workers' states differ, or it depends on the calls seen while Step Reuse makes other calls than stock.
    """
    try:
        changes = without_resources(watch.changes(), job.counterparts, store)
        stream = write_changes(changes, job.counterparts, store) if changes and rank == 0 else b""
        told = _Told(digests=digests_of(changes, job.counterparts))
    except (CannotReturn, ShippingError) as error:
        told = _Told(refused=str(error))
    everyone = [_Told.from_text(text) for text in all_gather_texts(told.to_text())]
    _refuse(everyone, job)
    differing = disagreements([one.digests for one in everyone])
    if differing and rank == 0:
        agreed = [change for change in changes if change.place not in differing]
        stream = write_changes(agreed, job.counterparts, store)
    return stream


def _refuse(everyone: list[_Told], job: SamplingJob) -> None:
    for one in everyone:
        if one.refused:
            raise NotReturned(one.refused)
    by_calls = [digest for one in everyone for digest in one.digests if not digest.begins_anew]
    if job.plan.ahead.config.enabled and by_calls:
        raise NotReturned(
            f"{by_calls[0].name} remembers what it has seen of this run, and Step Reuse makes model calls ahead of "
            f"their time and some of them twice; unplug Step Reuse (and set step_degree to 1), or {_WAY_OUT}."
        )
    for digest in disagreements([one.digests for one in everyone]).values():
        if not digest.of_comfyui:
            raise NotReturned(
                f"{digest.name} remembers something else on every worker, as each sees only its part of a call and "
                "its own clock, so what it has learnt in this run cannot come back; set "
                f"{_splitting(job.plan.degrees)} to 1, or {_WAY_OUT}."
            )


def _splitting(degrees: Degrees) -> str:
    """The names of the degrees above 1 that give workers different parts of a call (all but step_degree)."""
    names = [name for name, size in degrees.named().items() if size > 1 and name != "step_degree"]
    return " and ".join(names)
