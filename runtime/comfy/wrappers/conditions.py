"""CFG parallelism in ComfyUI: the CALC_COND_BATCH wrapper that divides the conditions of a model call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import comfy.samplers
import torch

from ...parallel.cfg import CfgParallel


class SharedConditions:
    """The wrapper of a job with cfg_degree."""

    def __init__(self, cfg: CfgParallel) -> None:
        self._cfg = cfg

    def __call__(
        self,
        executor: Callable,
        model: Any,
        conds: list[list[dict] | None],
        x_in: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict,
    ) -> list[torch.Tensor]:
        """The predictions of all conditions, each shaped like `x_in`."""
        _see_schedules(model, self._cfg.elsewhere(conds), x_in, timestep, model_options)
        return self._cfg(conds, lambda mine: executor(model, mine, x_in, timestep, model_options))


def _see_schedules(
    model: Any, conds: Iterable[list[dict]], x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
) -> None:
    """Advance the hook keyframes of conditions that other groups evaluate: keyframes count the calls they have seen."""
    for cond in (cond for several in conds for cond in several if cond.get("hooks") and "default" not in cond):
        if comfy.samplers.get_area_and_mult(cond, x_in, timestep) is not None:
            model.current_patcher.prepare_hook_patches_current_keyframe(timestep, cond["hooks"], model_options)
