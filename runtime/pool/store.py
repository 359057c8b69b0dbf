"""A store of tensors that a pool and its workers share: each tensor is written once, under the hash of its content.

So a LoRA or a ControlNet that stays the same is sent once, however many runs use it. local/folder_store.py implements
the protocol for workers on this machine; workers on other machines would need another implementation.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Protocol

import torch

from .bootstrap import part_of

# Tensors up to this size are copied into the job, which costs less than storing them.
INLINE_BYTES = 64 * 1024


class Store(Protocol):
    """One process's access to the tensors. Keys are those of `tensor_hash.content_hash`."""

    @property
    def address(self) -> tuple[str, ...]:
        """For `open_store` in a worker: "module:attribute" inside the pack, and the arguments of that."""

    def put(self, tensor: torch.Tensor) -> str:
        """Store a tensor unless it is there. Returns its key. Raises OSError if it cannot be stored."""

    def get(self, key: str) -> torch.Tensor:
        """The tensor with this key; writing to it changes no other reader's. Raises OSError if it is gone."""

    def keep_only(self, keys: Set[str], weights: Set[str] = frozenset()) -> None:
        """Drop every stored tensor but these. A process that uses a dropped tensor keeps it.

        `weights` are the keys of models' tensors. They stay until two other sets of models have come: workflows may
        sample with two models in turn, and the workers keep as many.
        """


def open_store(address: Sequence[str]) -> Store:
    """In a worker: the store with this address."""
    name, *arguments = address
    return part_of(__name__.removesuffix(".runtime.pool.store"), name)(*arguments)
