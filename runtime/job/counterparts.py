"""The objects of a job that the parent and a worker both have, in one order, and which of them may change in a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .packs import Namespace

# What a guider holds for the duration of one call, or what travels on its own.
OF_ONE_RUN = {"model_patcher", "model_options", "original_conds", "conds", "inner_model", "loaded_models"}


@dataclass(frozen=True)
class Counterparts:
    """One side of what both sides have. Equal places hold what was made of each other.

    Args:
        objects: all that travelled by value and can change; the guider is the first.
        tensors: all tensors, by their token.
        namespaces: the variables of packs' modules, of their objects and dicts, of which plain data travelled.
        local: what stays in the parent, or the placeholders that a worker has for it.
    """

    objects: Sequence[Any]
    tensors: Mapping[int, torch.Tensor]
    namespaces: Sequence[Namespace]
    patchers: Sequence[ModelPatcher]
    local: Sequence[Any]


class Seen:
    """Collects, in the order of pickling, the objects that can change. Keeps them alive, so that ids stay theirs."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._passing: dict[int, Any] = {}

    def add(self, obj: Any) -> None:
        """An object that travels by value; the dict of its attributes is no object of its own."""
        if id(obj) not in self._passing:
            self._objects.setdefault(id(obj), obj)
            attributes = getattr(obj, "__dict__", None)
            self._passing[id(attributes)] = attributes

    def leave_out(self, objects: Iterator[Any]) -> None:
        """What nobody holds any more after the run."""
        self._passing |= {id(obj): obj for obj in objects}

    def objects(self) -> tuple[Any, ...]:
        """All so far."""
        return tuple(self._objects.values())


def containers_of(value: Any) -> Iterator[dict | list]:
    """The nested dicts and lists of options or conditions, which ComfyUI copies for every run (copy_nested_dicts)."""
    if isinstance(value, dict):
        yield value
        for entry in value.values():
            yield from containers_of(entry)
    elif isinstance(value, list):
        yield value
