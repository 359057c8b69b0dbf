"""Loads a worker's models with room for what its share of a run needs: the wrapper of kind PREPARE_SAMPLING.

Workers on one device load one after the other, and none takes more than its part of the device's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
import torch.distributed as dist

from ...planner.memory import MemoryNeed, communication_bytes
from ...pool.orders import Orders
from ...report.ledger import Ledger

MB = 1 << 20


def _free_or_own(model: Any) -> int:
    """Bytes of the device that are free or hold this model."""
    return int(comfy.model_management.get_free_memory(model.load_device)) + model.loaded_size()


class ReservedMemory:
    """The wrapper. Collective if two workers have one device."""

    def __init__(self, orders: Orders, need: MemoryNeed, ledger: Ledger) -> None:
        self._orders, self._need, self._ledger = orders, need, ledger
        self._reserved = need.reserved + communication_bytes(orders.backend, orders.world)

    def __call__(self, executor: Callable, model: Any, noise_shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        """Load the models for a sampling of `noise_shape` (B, ...)."""
        beside, turns = self._orders.beside, self._orders.turns
        part = self._part(model, beside) if turns > 1 else None
        for turn in range(turns):
            if turn == (beside.index(self._orders.rank) if beside else 0):
                left = 0 if part is None else max(0, _free_or_own(model) - part)
                with self._share_required(model.model, noise_shape[0], left):
                    prepared = executor(model, noise_shape, *args, **kwargs)
            if turns > 1:
                dist.barrier()
        self._tell_of_partial_load(model)
        return prepared

    def _part(self, model: Any, beside: Sequence[int]) -> int:
        """Bytes that this worker may have: an equal part of what is free and of what those of its device hold."""
        own = torch.tensor([_free_or_own(model), model.loaded_size()], dtype=torch.int64)
        rows = torch.empty(dist.get_world_size() * 2, dtype=torch.int64)
        dist.all_gather_into_tensor(rows, own)
        of_device = rows.view(-1, 2)[list(beside or (self._orders.rank,))]
        free = (of_device[:, 0] - of_device[:, 1]).min()
        return int(free + of_device[:, 1].sum()) // len(of_device)

    @contextmanager
    def _share_required(self, model: Any, batch: int, left: int) -> Iterator[None]:
        """Meanwhile `model` (a comfy.model_base.BaseModel) requires memory for this worker's share, and what is
        reserved. ComfyUI asks it for a call with all conditions, and for one of `batch` entries."""
        whole = model.memory_required

        def required(shape: Sequence[int], *args: Any, **kwargs: Any) -> float:
            share = self._need.share_of_one if shape[0] <= batch else self._need.share
            return whole(shape, *args, **kwargs) * share + self._reserved + left

        model.memory_required = required
        try:
            yield
        finally:
            del model.memory_required

    def _tell_of_partial_load(self, model: Any) -> None:
        if model.model.model_lowvram:
            on_card, whole = model.loaded_size() // MB, model.model_size() // MB
            self._ledger.warn(
                f"The model does not fit on {model.load_device}: {on_card} of {whole} MB of weights are there, and "
                "the others are copied to it in every call, which takes time. A smaller picture, fewer bits for the "
                "weights or a smaller base_memory_gb may help."
            )
