"""Compares the state changes of a run between workers: exact content by digest, tensors and floats by a few values.

The copies of one state differ between workers if each worker saw only part of a call: its condition, its tokens. Then
no worker's copy is the one that stock ComfyUI would have. It does not return, or all refuse the run; agreed_changes.py
decides which.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from ..describe.code_owners import is_of_comfyui
from . import facets
from .counterparts import Counterparts
from .naming import Names
from .pickling import own_parts
from .state_changes import Place, StateChange, watched_objects

SAMPLE = 16
"""The number of a tensor's values, evenly spread, that are compared, and of the parts whose means are compared."""
TOLERANCE = 1e-3
"""Relative to a tensor's root mean square, or to a number: workers may differ in the last bits of what they compute."""
# The modules of ComfyUI whose patches keep state from one call to the next.
_FROM_CALL_TO_CALL = ("nodes_apg",)


@dataclass(frozen=True)
class StateDigest:
    """A summary of one changed object: its name, a digest of what must be equal, and numbers that may differ a little.

    `of_comfyui`: the object is ComfyUI's or holds the variables of its functions. `begins_anew`: it is ComfyUI's and
    is set up again by every run, or made and used within one call.
    """

    place: Place
    name: str
    of_comfyui: bool
    begins_anew: bool
    digest: str
    numbers: list[list[float]] = field(default_factory=list)

    def agrees(self, other: StateDigest | None) -> bool:
        """Whether two workers have the same digest of the object."""
        return (
            other is not None
            and self.digest == other.digest
            and len(self.numbers) == len(other.numbers)
            and all(map(_close, self.numbers, other.numbers))
        )


def digests_of(changes: Sequence[StateChange], counterparts: Counterparts) -> list[StateDigest]:
    """Returns one digest per change."""
    if not changes:
        return []
    places: dict[int, tuple] = {id(obj): place for place, obj in watched_objects(counterparts)}
    for number, patcher in enumerate(counterparts.patchers):  # so that no model's weights are walked through
        places |= {id(patcher): ("patcher", number)}
        places |= {key: ("part", number, path) for key, path in own_parts(patcher).items()}
    names = Names(counterparts)
    return [_digest(change, _Teller(places), names) for change in changes]


def disagreements(of_ranks: Sequence[Sequence[StateDigest]]) -> dict[Place, StateDigest]:
    """The changes on which the workers differ, or which some worker does not have."""
    by_place = [{digest.place: digest for digest in digests} for digests in of_ranks]
    told = {digest.place: digest for digests in reversed(of_ranks) for digest in digests}
    return {
        place: digest for place, digest in told.items() if not all(digest.agrees(own.get(place)) for own in by_place)
    }


def _digest(change: StateChange, teller: _Teller, names: Names) -> StateDigest:
    teller.tell(dict(change.content))
    definer = names.definer(change.obj)
    return StateDigest(
        change.place,
        names.of(change.obj),
        of_comfyui=is_of_comfyui(definer),
        begins_anew=is_of_comfyui(definer) and not definer.__module__.endswith(_FROM_CALL_TO_CALL),
        digest=hashlib.blake2b("\n".join(teller.words).encode(), digest_size=16).hexdigest(),
        numbers=teller.numbers,
    )


def _close(one: list[float], other: list[float]) -> bool:
    """Whether two lists of numbers are close. The first number of each is the scale for the tolerance."""
    if len(one) != len(other) or not all(map(math.isfinite, (*one, *other))):
        return repr(one) == repr(other)
    return all(abs(a - b) <= TOLERANCE * max(one[0], other[0]) for a, b in zip(one, other))


class _Teller:
    """Walks through a value and collects `words` (types, structure, exact values) and `numbers` (tensors and floats).

    Objects with a place are named by it and not walked through.
    """

    def __init__(self, places: Mapping[int, tuple]) -> None:
        self.words: list[str] = []
        self.numbers: list[list[float]] = []
        self._places = places
        self._met: dict[int, Any] = {}

    def tell(self, value: Any) -> None:
        """Collect from a value and all that it holds; for an object that both sides have, only its place."""
        if id(value) in self._places:
            self.words.append(str(self._places[id(value)]))
        elif isinstance(value, float):
            self.words.append("number")
            self.numbers.append([abs(value), value])
        elif value is None or isinstance(value, bool | int | str | bytes | complex | torch.dtype):
            self.words.append(repr(value))
        elif isinstance(value, torch.device):
            self.words.append("cpu" if value.type == "cpu" else "device")
        elif facets.stays_in_the_worker(value):
            self.words.append("a part of this pack")
        elif isinstance(value, type | FunctionType):
            self.words.append(f"{value.__module__}.{value.__qualname__}")
        elif isinstance(value, ModuleType):
            self.words.append(value.__name__)
        elif id(value) in self._met:
            self.words.append("again")
        else:
            self._met[id(value)] = value
            self._tell_object(value)

    def _tell_object(self, value: Any) -> None:
        self.words.append(f"{type(value).__module__}.{type(value).__qualname__}")
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            value = torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "biufc" else value.tolist()
        if isinstance(value, torch.Tensor):
            self.words.append(f"{tuple(value.shape)} {value.dtype}")
            self.numbers.append(_sample(value))
            return
        if isinstance(value, dict):
            value = [*value.items()]
        if isinstance(value, set | frozenset):  # whose order differs between processes
            value = sorted(value, key=self._word)
        if isinstance(value, list | tuple | deque):
            self.words.append(str(len(value)))
            for part in value:
                self.tell(part)
        elif facets.can_change(value):
            self.tell(facets.read(value))

    def _word(self, member: Any) -> str:
        alone = _Teller(self._places)
        alone.tell(member)
        return "\n".join(alone.words)


def _sample(tensor: torch.Tensor) -> list[float]:
    """The root mean square, up to SAMPLE values and the means of SAMPLE parts; empty for a tensor without values."""
    if tensor.is_meta or not tensor.numel() or tensor.layout != torch.strided:
        return []
    flat = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    flat = flat.reshape(-1).float() if flat.is_floating_point() else flat.reshape(-1).double()
    size = flat.square().mean(dtype=torch.float64).sqrt()
    values = flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE].tolist()
    means = torch.stack([part.mean(dtype=torch.float64) for part in flat.tensor_split(SAMPLE) if part.numel()])
    return [float(size), *values, *means.tolist()]
