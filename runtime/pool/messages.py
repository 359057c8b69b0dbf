"""The messages between a pool and its workers: plain data only, so that decoding one never runs code."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Ready:
    """Worker to pool: imports are done, the process group is made, the link to the other workers is measured.

    The pool's status shows `about` and `link`; `link` is None if there is only one worker.
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
    """Pool to worker: run the job, which every rank has prepared."""

    job: int


@dataclass(frozen=True)
class Abandon:
    """Pool to worker: forget the job; some rank could not prepare it, or it was cancelled meanwhile."""

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
class Predicted:
    """Rank 0 to pool: model call `call` is evaluated. `payload` belongs to the handler (it holds the prediction)."""

    job: int
    call: int
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
    """Worker to pool: the job raised an exception of class `kind`; `job` is 0 if the start or a Renew did.

    `agreed`: every rank raised at the same place, and no message between them is in flight.
    """

    job: int
    kind: str
    error: str
    traceback: str
    agreed: bool
    about: dict


@dataclass(frozen=True)
class Renew:
    """Pool to worker: all ranks have left a job, but not together; make a new process group through `rendezvous`."""

    rendezvous: str


@dataclass(frozen=True)
class Renewed:
    """Worker to pool: the new process group is made, and the device works."""


@dataclass(frozen=True)
class Park:
    """Pool to worker: free `nbytes` of the device's memory, or all of it (None); keep the process."""

    nbytes: int | None = None


@dataclass(frozen=True)
class Parked:
    """Worker to pool: the memory is freed; `device_bytes` are still held on the device."""

    device_bytes: int


@dataclass(frozen=True)
class Ping:
    """Pool to worker: answer with Pong, also while a job runs."""


@dataclass(frozen=True)
class Pong:
    """Worker to pool: the answer to Ping."""


Message = (
    Ready | Prepare | Prepared | Run | Abandon | Cancel | Progress | Predicted | Done | Failed
    | Renew | Renewed | Park | Parked | Ping | Pong
)  # fmt: skip
_KINDS = {kind.__name__: kind for kind in Message.__args__}


class _PlainPickler(pickle.Pickler):
    """Refuses everything that is not plain data, so that the error is raised at the sender, not at the receiver."""

    def reducer_override(self, value: Any) -> Any:
        raise pickle.PicklingError(f"a message may hold plain data only, not {type(value).__name__}")


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function, so that decoding a message runs no code."""

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
