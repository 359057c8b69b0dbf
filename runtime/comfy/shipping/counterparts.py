"""The objects of a job that parent and worker both have, in the same order, so that each can name them by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .custom_nodes import Namespace

# Attributes that a guider holds for the duration of one call, or that travel separately.
OF_ONE_RUN = {"model_patcher", "model_options", "original_conds", "conds", "inner_model", "loaded_models"}


@dataclass(frozen=True)
class Counterparts:
    """One process's list of the objects that both have. The same position on both sides is the same object.

    Args:
        objects: all objects that travelled by value and can change; the guider is the first.
        tensors: all tensors, by their token.
        namespaces: variables of packs' modules, and of objects and dicts in them, whose plain data travelled.
        patchers: the job's ModelPatchers, by their numbers.
        local: objects that stay in the parent, or a worker's placeholders for them.
    """

    objects: Sequence[Any]
    tensors: Mapping[int, torch.Tensor]
    namespaces: Sequence[Namespace]
    patchers: Sequence[ModelPatcher]
    local: Sequence[Any]


class Changeable:
    """Collects, in pickling order, the objects that can change. Keeps them alive so that their ids stay unique."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._passing: dict[int, Any] = {}

    def add(self, obj: Any) -> None:
        """Add an object that travels by value; the dict of its attributes does not count as a separate object."""
        if id(obj) not in self._passing:
            self._objects.setdefault(id(obj), obj)
            attributes = getattr(obj, "__dict__", None)
            self._passing[id(attributes)] = attributes

    def leave_out(self, objects: Iterator[Any]) -> None:
        """Exclude objects that nobody holds any more after the run."""
        self._passing |= {id(obj): obj for obj in objects}

    def objects(self) -> tuple[Any, ...]:
        """All objects collected so far."""
        return tuple(self._objects.values())


def containers_of(value: Any) -> Iterator[dict | list]:
    """The nested dicts and lists of options or conditions, which ComfyUI copies for every run (copy_nested_dicts)."""
    if isinstance(value, dict):
        yield value
        for entry in value.values():
            yield from containers_of(entry)
    elif isinstance(value, list):
        yield value
