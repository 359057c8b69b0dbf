"""Hooks with keyframes (a scheduled LoRA or model hook) go by the calls they have seen, and no rank sees all calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import comfy.hooks


class Schedules:
    """The keyframes of the hooks on a guider's conditions, which can be put to where they stand at any call."""

    def __init__(self, guider: Any) -> None:
        self._guider = guider

    def put_behind(self, levels: Sequence[float], extra: dict) -> None:
        """As if the calls at these noise levels, and no others, had been seen.

        Weights that a hook made with another strength are forgotten. `extra` is what the sampler gives the model.
        """
        changed = False
        for keyframes, conds in self._scheduled():
            fresh = keyframes.clone()
            for level in levels:
                if any(_takes_part(cond, level) for cond in conds):
                    fresh.prepare_current_keyframe(level, extra["model_options"]["transformer_options"])
            changed |= fresh.strength != keyframes.strength
            vars(keyframes).update(vars(fresh))
        if changed:
            self._guider.model_patcher.clear_cached_hook_weights()

    def _scheduled(self) -> Iterator[tuple[comfy.hooks.HookKeyframeGroup, list[dict]]]:
        """Keyframes that change something, and the conditions that bring them."""
        found: dict[int, tuple[comfy.hooks.HookKeyframeGroup, list[dict]]] = {}
        for cond in (cond for conds in self._guider.conds.values() for cond in conds):
            for hook in getattr(cond.get("hooks"), "hooks", ()):
                if len(hook.hook_keyframe.keyframes) > 1:
                    found.setdefault(id(hook.hook_keyframe), (hook.hook_keyframe, []))[1].append(cond)
        yield from found.values()


def _takes_part(cond: dict, level: float) -> bool:
    """Whether ComfyUI evaluates the condition at this noise level (comfy.samplers.get_area_and_mult)."""
    return cond.get("timestep_end", level) <= level <= cond.get("timestep_start", level)
