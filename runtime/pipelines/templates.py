"""Placeholders for the outputs of denoisers that need not be evaluated: zeros in the shape of outputs seen before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .running import DenoiserCall


class Templates:
    """The outputs of a pipeline's denoisers, as zeros, by the denoiser's name and the place of its call in a step."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], Any] = {}

    def learn(self, call: DenoiserCall, output: Any) -> None:
        """Remembers what an output looks like."""
        if (call.name, call.place) not in self._known:
            self._known[call.name, call.place] = zeros_like(output)

    def of(self, call: DenoiserCall) -> Any:
        """A placeholder for the output of a call; that of a like call if this one was never seen. None without any."""
        same_place = (known for (_, place), known in self._known.items() if place == call.place)
        known = (
            self._known.get((call.name, call.place)) or next(same_place, None) or next(iter(self._known.values()), None)
        )
        return zeros_like(known)


def zeros_like(output: Any) -> Any:
    """Zeros in place of all tensors of a denoiser's output: a tensor, or tuples, lists or an output class of them."""
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    if isinstance(output, dict):  # diffusers' output classes are dicts, too
        return type(output)(**{name: zeros_like(value) for name, value in output.items()})
    if isinstance(output, tuple | list):
        return type(output)(zeros_like(value) for value in output)
    return output
