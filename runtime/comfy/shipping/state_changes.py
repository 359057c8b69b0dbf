"""The state changes of a run: finds them in a worker by comparing before and after, and repeats them in the parent.

Stock ComfyUI samples in the process of the workflow, so the next node sees what a sampler, guider or patch has written
into its lists, variables and tensors. Therefore worker 0's changes return with the samples, and are applied all at once
after the run has succeeded. A run that failed or was cancelled returns none: every worker stopped at a different place,
and half of one worker's changes is no state that stock ComfyUI could be in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import facets
from .counterparts import OF_ONE_RUN, Counterparts
from .custom_nodes import Namespace
from .facets import CannotReturn, Entries
from .naming import Names

# The address of a changed object, the same on both sides: ("object" or "namespace", its index among the counterparts)
# or ("tensor", its token).
Place = tuple[str, int]
_GUIDER: Place = ("object", 0)


@dataclass(frozen=True)
class StateChange:
    """The new content of an object's facets (see facets.py). `obj` is the object in this process."""

    place: Place
    obj: Any
    content: Mapping[str, Any]


class Watch:
    """Records the state of everything in `counterparts`, to find later changes. Tensors are hashed, not copied."""

    def __init__(self, counterparts: Counterparts) -> None:
        self._counterparts = counterparts
        self._before = {place: facets.read(obj) for place, obj in watched_objects(counterparts)}

    def changes(self) -> list[StateChange]:
        """The changes since this Watch was made. Raises CannotReturn with a sentence for the user."""
        return [
            change for place, obj in watched_objects(self._counterparts) if (change := self._change(place, obj)).content
        ]

    def _change(self, place: Place, obj: Any) -> StateChange:
        before = self._before[place]
        try:
            content = facets.differences(obj, before)
        except CannotReturn as error:
            raise CannotReturn(cannot_return(obj, self._counterparts, error)) from error
        if place == _GUIDER:
            content = _only(content, lambda name: name not in OF_ONE_RUN)
        if place[0] == "namespace":
            content = _only(content, partial(_is_shared, self._counterparts.namespaces[place[1]], before["entries"]))
        return StateChange(place, obj, content)


def cannot_return(obj: Any, counterparts: Counterparts, reason: object) -> str:
    """The sentence for an object whose changes cannot be made in the parent."""
    return (
        f"{Names(counterparts).of(obj)} was changed by this run, and that cannot come back from the workers: {reason}. "
        'Bypass the node that puts it there, or set on_unsupported of Parallel Model to "run on one device".'
    )


def make(changes: list[tuple[Place, Mapping[str, Any]]], counterparts: Counterparts) -> None:
    """Apply changes that were found in the other process to this process's objects."""
    own = dict(watched_objects(counterparts))
    for place, content in changes:
        facets.write(own[place], content)


def watched_objects(counterparts: Counterparts) -> Iterator[tuple[Place, Any]]:
    """Yields (place, object) for everything that may change; the place is the same in the other process."""
    yield from ((("object", number), obj) for number, obj in enumerate(counterparts.objects))
    yield from ((("tensor", token), tensor) for token, tensor in counterparts.tensors.items())
    yield from ((("namespace", number), space.variables) for number, space in enumerate(counterparts.namespaces))


def _is_shared(space: Namespace, before: Mapping[str, Any], name: Any) -> bool:
    """Whether a module's variable travelled or is new; each process made the others by its own import."""
    return (name in space.shared or name not in before) and not str(name).startswith("__")


def _only(content: Mapping[str, Any], wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Keeps only the changed attributes or entries whose names are wanted."""
    narrowed = {facet: part.only(wanted) if isinstance(part, Entries) else part for facet, part in content.items()}
    return {facet: part for facet, part in narrowed.items() if any(part)}
