"""What a run has changed: found in a worker by comparing before and after, and made again in the parent.

Stock ComfyUI samples in the process of the workflow: what a sampler, guider or patch writes into its lists, variables
and tensors is there for the next node. So the worker's changes return with the samples. They come from worker 0 and are
made all at once when the run has succeeded. Of a run that failed or was cancelled nothing returns: every worker was
stopped at some place of its own, and half of one worker's changes is no state that stock ComfyUI could be in either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import facets
from .counterparts import OF_ONE_RUN, Counterparts
from .facets import CannotReturn, Entries
from .naming import Names
from .packs import Namespace

# Where a change is: an object by its place among the counterparts, a tensor by its token, a namespace by its place.
Place = tuple[str, int]
_GUIDER: Place = ("object", 0)


@dataclass(frozen=True)
class Change:
    """The new content of an object's facets (see facets.py). `obj` is this process's own."""

    place: Place
    obj: Any
    content: Mapping[str, Any]


class Watch:
    """Remembers how everything in `counterparts` is now, without copying it."""

    def __init__(self, counterparts: Counterparts) -> None:
        self._counterparts = counterparts
        self._before = {place: facets.read(obj) for place, obj in watched(counterparts)}

    def changes(self) -> list[Change]:
        """What is not as it was. Raises CannotReturn, in a sentence."""
        return [change for place, obj in watched(self._counterparts) if (change := self._change(place, obj)).content]

    def _change(self, place: Place, obj: Any) -> Change:
        before = self._before[place]
        try:
            content = facets.differences(obj, before)
        except CannotReturn as error:
            raise CannotReturn(cannot_return(obj, self._counterparts, error)) from error
        if place == _GUIDER:
            content = _only(content, lambda name: name not in OF_ONE_RUN)
        if place[0] == "namespace":
            content = _only(content, partial(_is_shared, self._counterparts.namespaces[place[1]], before["entries"]))
        return Change(place, obj, content)


def cannot_return(obj: Any, counterparts: Counterparts, reason: object) -> str:
    """The sentence for an object whose changes cannot be made in the parent."""
    return (
        f"{Names(counterparts).of(obj)} was changed by this run, and that cannot come back from the workers: {reason}. "
        'Bypass the node that puts it there, or set on_unsupported of Parallel Model to "run on one device".'
    )


def make(changes: list[tuple[Place, Mapping[str, Any]]], counterparts: Counterparts) -> None:
    """Make the changes that were found on the other side to the objects of this one."""
    own = dict(watched(counterparts))
    for place, content in changes:
        facets.write(own[place], content)


def watched(counterparts: Counterparts) -> Iterator[tuple[Place, Any]]:
    """Everything that may change, with the place by which the other side knows it."""
    yield from ((("object", number), obj) for number, obj in enumerate(counterparts.objects))
    yield from ((("tensor", token), tensor) for token, tensor in counterparts.tensors.items())
    yield from ((("namespace", number), space.variables) for number, space in enumerate(counterparts.namespaces))


def _is_shared(space: Namespace, before: Mapping[str, Any], name: Any) -> bool:
    """Of a module's variables those that travelled, and new ones; the others each process made by its own import."""
    return (name in space.shared or name not in before) and not str(name).startswith("__")


def _only(content: Mapping[str, Any], wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Of changed attributes or entries those with a wanted name."""
    narrowed = {facet: part.only(wanted) if isinstance(part, Entries) else part for facet, part in content.items()}
    return {facet: part for facet, part in narrowed.items() if any(part)}
