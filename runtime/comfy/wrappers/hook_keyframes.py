"""Hooks with keyframes (a scheduled LoRA or model hook) under step parallelism, where no rank sees all calls.

Keyframes depend on the calls they have seen, so they are set to their state at a call before a rank evaluates it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import comfy.hooks


class Schedules:
    """The keyframes of the hooks on a guider's conditions, which can be set to their state at any call."""

    def __init__(self, guider: Any) -> None:
        self._guider = guider

    def put_behind(self, levels: Sequence[float], extra: dict) -> None:
        """Set the keyframes as if exactly the calls at these noise levels had been seen.

        Hook weights cached at another strength are cleared. `extra`: the extra arguments the sampler gives the model.
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
        """Yields keyframe groups with more than one keyframe, each with the conditions whose hooks have it."""
        found: dict[int, tuple[comfy.hooks.HookKeyframeGroup, list[dict]]] = {}
        for cond in (cond for conds in self._guider.conds.values() for cond in conds):
            for hook in getattr(cond.get("hooks"), "hooks", ()):
                if len(hook.hook_keyframe.keyframes) > 1:
                    found.setdefault(id(hook.hook_keyframe), (hook.hook_keyframe, []))[1].append(cond)
        yield from found.values()


def _takes_part(cond: dict, level: float) -> bool:
    """Whether ComfyUI evaluates the condition at this noise level (comfy.samplers.get_area_and_mult)."""
    return cond.get("timestep_end", level) <= level <= cond.get("timestep_start", level)
