"""Cuts what a ControlNet or a T2I adapter adds to the feature maps of a UNet to the local rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class LocalControlRows:
    """The control of one place (input, middle, output): each tensor is cut to the local rows when it is taken."""

    def __init__(self, residuals: list[Tensor | None], cut: Callable[[Tensor], Tensor]) -> None:
        self._residuals, self._cut = residuals, cut

    def __len__(self) -> int:
        return len(self._residuals)

    def pop(self) -> Tensor | None:
        """Removes the last tensor, also from the ControlNet's list, and cuts it. One row is for all and stays one."""
        residual = self._residuals.pop()
        return residual if residual is None or residual.shape[-2] == 1 else self._cut(residual)


def local_control(control: Mapping[str, Any], cut: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """ComfyUI's control, {"input" | "middle" | "output": tensors}, cut as it is used."""
    return {place: LocalControlRows(residuals, cut) for place, residuals in control.items()}
