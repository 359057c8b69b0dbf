"""The memory of a worker's device while a pipeline runs, by which Step Reuse decides about batches of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MARGIN = 1.2
"""A batch must leave so much room more than it is expected to take."""
LEAST_ROOM = 2 << 30
"""Bytes that weights must leave free on a device for what a pipeline computes."""


def fits(nbytes: int, device: torch.device) -> bool:
    """Whether weights of so many bytes fit on the device, with room to compute."""
    return device.type != "cuda" or nbytes + LEAST_ROOM < torch.cuda.mem_get_info(device)[0]


class PipelineMemory:
    """Implements parallel.agreement.Memory. On a CPU there is always room."""

    def __init__(self, device: torch.device) -> None:
        self._held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def free(self, device: torch.device) -> int:
        """Bytes that are free, or kept by torch's allocator for its own use."""
        if device.type != "cuda":
            return 1 << 40
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused

    def pretend(self, free: int) -> None:
        """Does nothing: no pipeline asks how much is free."""

    def holds(self, shape: Sequence[int], device: torch.device) -> bool:
        """Whether `shape`[0] steps fit as one batch, by what the steps so far have taken at most."""
        if device.type != "cuda":
            return True
        of_one = torch.cuda.max_memory_allocated(device) - self._held
        return shape[0] * of_one * MARGIN < self.free(device)
