"""The free memory by which ComfyUI decides how many conditions it evaluates as one batch; equal on all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class FreeMemory:
    """Implements parallel.agreement.Memory. `patcher` is the model being sampled; its `get_free_memory` is replaced."""

    def __init__(self, patcher: Any) -> None:
        self._patcher = patcher
        self._measured = patcher.get_free_memory

    def free(self, device: torch.device) -> int:
        """As ComfyUI measures it, in bytes."""
        return self._measured(device)

    def pretend(self, free: int) -> None:
        """ComfyUI gets this number from now on."""
        self._patcher.get_free_memory = lambda device: free

    def holds(self, shape: Sequence[int], device: torch.device) -> bool:
        """By ComfyUI's own estimate and margin (samplers.calc_cond_batch)."""
        return self._patcher.model.memory_required(list(shape)) * 1.5 < self._patcher.get_free_memory(device)
