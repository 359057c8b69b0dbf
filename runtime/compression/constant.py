"""Tensors of fixed values, such as the levels of a codec, which each device gets once."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """A tensor that never changes."""

    def __init__(self, values: Tensor) -> None:
        self._on = {values.device: values}
        self._values = values

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device; only the first copy to it makes the host wait."""
        found = self._on.get(device)
        if found is None:
            found = self._on[device] = self._values.to(device)
        return found
