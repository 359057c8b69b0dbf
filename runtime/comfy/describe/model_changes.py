"""Finds the patches, wrappers and injections that a workflow puts inside a model, where they may see only a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from comfy.hooks import EnumHookType
from comfy.patcher_extension import WrappersMP

from ..shipping.sampling_job import WRAPPER_KEY
from .declared_changes import injections, object_patches


def replaced_within(guider: Any) -> str:
    """Names an object patch or injection by which a workflow changes the model's own code; empty if there is none.

    Object patches replace modules and functions; AnimateDiff-like packs use injections.
    """
    patched, injected = object_patches(guider.model_patcher), injections(guider.model_patcher)
    if patched:
        return f"an object patch ({patched[0]})"
    return f"an injection ({injected[0]})" if injected else "an injection on a condition" if _injects(guider) else ""


def acts_within(guider: Any) -> bool:
    """Whether the workflow has code inside the model that may depend on the whole batch."""
    options = guider.model_options.get("transformer_options", {})
    return (
        bool(replaced_within(guider))
        or "model_function_wrapper" in guider.model_options
        or wraps(guider, WrappersMP.DIFFUSION_MODEL)
        or any(any(options.get(kind, {}).values()) for kind in ("patches", "patches_replace"))
        or any(cond.get("gligen") for cond in conditions_of(guider))
    )


def wraps(guider: Any, *kinds: str) -> bool:
    """Whether the workflow has put wrappers of one of these kinds (WrappersMP) on the model."""
    return any(True for _ in wrappers_of(guider, *kinds))


def wrappers_of(guider: Any, *kinds: str) -> Iterator[Callable]:
    """The wrappers of these kinds that the workflow has put on the model, each once, in the order they are called."""
    options = guider.model_options.get("transformer_options", {})
    given = (guider.model_patcher.wrappers, options.get("wrappers", {}))
    found = {
        id(wrapper): wrapper
        for kind in kinds
        for wrappers in given
        for key, several in wrappers.get(kind, {}).items()
        if key != WRAPPER_KEY
        for wrapper in several
    }
    yield from found.values()


def conditions_of(guider: Any) -> list[dict]:
    """Every condition that the guider may evaluate."""
    return [cond for conds in guider.conds.values() for cond in conds or []]


def _injects(guider: Any) -> bool:
    hooks = [hook for cond in conditions_of(guider) for hook in getattr(cond.get("hooks"), "hooks", [])]
    return any(hook.hook_type == EnumHookType.Injections for hook in hooks)
