"""The messages between a pool and its workers: plain data only, so that decoding one never runs code."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Ready:
    """Worker to pool: imports are done, the process group stands, the link to the others is measured.

    `about` is shown in the pool's status, and so is `link`, None where there are no others.
    """

    about: dict = field(default_factory=dict)
    link: dict | None = None


@dataclass(frozen=True)
class Prepare:
    """Pool to worker: rebuild this job, without any collective."""

    job: int
    payload: bytes


@dataclass(frozen=True)
class Prepared:
    """Worker to pool: the job is rebuilt."""

    job: int


@dataclass(frozen=True)
class Run:
    """Pool to worker: every rank has prepared the job, run it."""

    job: int


@dataclass(frozen=True)
class Abandon:
    """Pool to worker: some rank could not prepare the job, or it was cancelled meanwhile; forget it."""

    job: int


@dataclass(frozen=True)
class Cancel:
    """Pool to worker: end the job at the next model call."""

    job: int


@dataclass(frozen=True)
class Progress:
    """Rank 0 to pool: one sampler step is done. `payload` belongs to the handler (it holds the preview)."""

    job: int
    step: int
    total: int
    payload: bytes


@dataclass(frozen=True)
class Done:
    """Worker to pool: the job's result (empty on all ranks but 0), this rank's ledger, and `about` as in Ready."""

    job: int
    result: bytes
    ledger: dict
    about: dict


@dataclass(frozen=True)
class Failed:
    """Worker to pool: the job raised `kind`, or the start did, which is no job (0).

    `agreed`: every rank did so at the same place and nothing is on its way between them.
    """

    job: int
    kind: str
    error: str
    traceback: str
    agreed: bool
    about: dict


@dataclass(frozen=True)
class Renew:
    """Pool to worker: all ranks are out of a job that was not ended together; meet the others at `rendezvous` anew."""

    rendezvous: str


@dataclass(frozen=True)
class Renewed:
    """Worker to pool: a new process group stands, and the device works."""


@dataclass(frozen=True)
class Park:
    """Pool to worker: give the device's memory back, keep the process."""


@dataclass(frozen=True)
class Parked:
    """Worker to pool: done; bytes still held on the device."""

    device_bytes: int


@dataclass(frozen=True)
class Ping:
    """Pool to worker: are you there? Answered beside whatever the worker does."""


@dataclass(frozen=True)
class Pong:
    """Worker to pool: yes."""


Message = (
    Ready | Prepare | Prepared | Run | Abandon | Cancel | Progress | Done | Failed
    | Renew | Renewed | Park | Parked | Ping | Pong
)  # fmt: skip
_KINDS = {kind.__name__: kind for kind in Message.__args__}


class _PlainPickler(pickle.Pickler):
    """Refuses what the other side would refuse, so that the error is raised where the value comes from."""

    def reducer_override(self, value: Any) -> Any:
        raise pickle.PicklingError(f"a message may hold plain data only, not {type(value).__name__}")


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function: a message is plain data."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a message may hold plain data only, not {module}.{name}")


def encode(message: Message) -> bytes:
    """One message as bytes. Raises pickle.PicklingError for anything that is not plain data."""
    values = {f.name: getattr(message, f.name) for f in fields(message)}
    data = io.BytesIO()
    _PlainPickler(data, protocol=pickle.HIGHEST_PROTOCOL).dump((type(message).__name__, values))
    return data.getvalue()


def decode(data: bytes) -> Message:
    """The inverse of `encode`. Raises pickle.UnpicklingError for anything that is not plain data."""
    kind, values = _PlainUnpickler(io.BytesIO(data)).load()
    return _KINDS[kind](**values)
