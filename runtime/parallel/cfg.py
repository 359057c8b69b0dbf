"""CFG parallelism: the conditions of a model call (cond, uncond ...) are divided over groups of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import comfy.samplers
import torch

from ..attention.axis import Axis, exchange
from ..report.ledger import Ledger


def owners(conds: list, groups: int) -> dict[int, int]:
    """{index of a condition: group that evaluates it}, round-robin, without conditions that are None or empty."""
    active = [index for index, cond in enumerate(conds) if cond]
    return {index: turn % groups for turn, index in enumerate(active)}


class CfgParallel:
    """The CALC_COND_BATCH wrapper of the cfg axis. Exact: every condition is evaluated once, by one group."""

    def __init__(self, axis: Axis, ledger: Ledger) -> None:
        self._axis = axis
        self._ledger = ledger

    def __call__(
        self,
        executor: Callable,
        model: Any,
        conds: list[list[dict] | None],
        x_in: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict,
    ) -> list[torch.Tensor]:
        """The predictions of all conditions, each shaped like `x_in`. A single one is evaluated by every group."""
        owner = owners(conds, self._axis.size)
        self._ledger.shared("cfg", len(owner) > 1)
        if len(owner) < 2:
            return executor(model, conds, x_in, timestep, model_options)
        others = (conds[index] for index in owner if owner[index] != self._axis.index)
        _see_schedules(model, others, x_in, timestep, model_options)
        mine = [cond if owner.get(index) == self._axis.index else None for index, cond in enumerate(conds)]
        outputs = [output.contiguous() for output in executor(model, mine, x_in, timestep, model_options)]
        self._share(outputs, owner)
        return outputs

    def _share(self, outputs: list[torch.Tensor], owner: dict[int, int]) -> None:
        groups = range(self._axis.size)
        held = {group: [index for index in owner if owner[index] == group] for group in groups}
        own = held[self._axis.index]
        sends, receives = {}, {}
        for other in self._axis.others():
            if own:
                sends[other] = torch.stack([outputs[index] for index in own])
                values = sends[other].numel()
                self._ledger.sent(values * sends[other].element_size(), 2 * values)
            if held[other]:
                receives[other] = torch.empty_like(torch.stack([outputs[index] for index in held[other]]))
        exchange(self._axis, sends, receives, self._ledger)
        for other, received in receives.items():
            for index, output in zip(held[other], received):
                outputs[index] = output


def _see_schedules(
    model: Any, conds: Iterable[list[dict]], x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
) -> None:
    """Advance the hook keyframes of conditions that other groups evaluate: keyframes count the calls they have seen."""
    for cond in (cond for several in conds for cond in several if cond.get("hooks") and "default" not in cond):
        if comfy.samplers.get_area_and_mult(cond, x_in, timestep) is not None:
            model.current_patcher.prepare_hook_patches_current_keyframe(timestep, cond["hooks"], model_options)
