"""Predicts how many conditions a guider evaluates per model call, before the run starts.

This is known for ComfyUI's own guiders. For code of other packs it is learned from runs (see planner/experience.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...planner.facts import Asked
from ...sharding.origin import is_function_of
from .customisations import Customisations
from .fingerprint import Named, named


@dataclass(frozen=True)
class _Override:
    """ComfyUI's CFG Override node: another CFG between two noise levels."""

    cfg: float
    lowest: float
    highest: float


def asked_by(guider: Any, custom: Customisations, arguments: Any) -> Asked:
    """The number of conditions that this guider's calls evaluate.

    `custom`: what is on its model. `arguments`: those of outer_sample.
    """
    held = {name for name, conds in guider.conds.items() if conds}
    count = _COUNTS.get(named(type(guider).predict_noise))
    if count is None:
        return Asked(len(held))
    sampler = arguments.sampler
    always = bool(guider.model_options.get("disable_cfg1_optimization")) or _needs_all(sampler)
    overrides = [_override(wrapper) for wrapper in custom.wrappers_of(WrappersMP.PREDICT_NOISE)]
    known = [override for override in overrides if override is not None]
    levels = [float(level) for level in arguments.sigmas[:-1]]
    usual = sorted(count(guider, held, _cfg_at(guider.cfg, known, level), always) for level in levels)
    ever = [count(guider, held, cfg, always) for cfg in (guider.cfg, *(override.cfg for override in known))]
    # Wrappers around the model may change CFG, or keep ComfyUI from skipping conditions.
    certain = len(known) == len(overrides) and not _may_ask_otherwise(custom, sampler)
    return Asked(usual[len(usual) // 2] if usual else ever[0], max(ever) if certain else None)


def predicts_by_cfg(guider: Any) -> bool:
    """Whether the guider combines its conditions as ComfyUI's CFGGuider does."""
    return named(type(guider).predict_noise) == _CFG_GUIDER


def _cfg_guider(guider: Any, held: set[str], cfg: float, always: bool) -> int:
    left_out = {"negative"} if math.isclose(cfg, 1.0) and not always else set()
    return len(held & {"positive", "negative"} - left_out)


def _dual_cfg(guider: Any, held: set[str], cfg: float, always: bool) -> int:
    left_out = set()
    if not guider.nested and not always and math.isclose(guider.cfg2, 1.0):
        left_out = {"negative", "middle"} if math.isclose(guider.cfg1, 1.0) else {"negative"}
    return len(held - left_out)


def _perp_neg(guider: Any, held: set[str], cfg: float, always: bool) -> int:
    left_out = set()
    if not always and math.isclose(guider.neg_scale, 0.0):
        left_out = {"negative", "empty_negative_prompt"} if math.isclose(cfg, 1.0) else {"negative"}
    return len(held - left_out)


def _one_after_the_other(guider: Any, held: set[str], cfg: float, always: bool) -> int:
    return 1


_CFG_GUIDER = ("comfy.samplers", "CFGGuider.predict_noise")
_COUNTS: dict[Named, Callable[[Any, set[str], float, bool], int]] = {
    _CFG_GUIDER: _cfg_guider,
    ("comfy_extras.nodes_custom_sampler", "Guider_DualCFG.predict_noise"): _dual_cfg,
    ("comfy_extras.nodes_custom_sampler", "Guider_DualModel.predict_noise"): _one_after_the_other,
    ("comfy_extras.nodes_perpneg", "Guider_PerpNeg.predict_noise"): _perp_neg,
}
_CFG_OVERRIDE = ("comfy_extras.nodes_custom_sampler", "CFGOverride.execute.<locals>.predict_noise_wrapper")


def _needs_all(sampler: Any) -> bool:
    """Whether this is a CFG++ sampler, which needs the negative prompt's prediction at any CFG."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return "cfg_pp" in name or name == "sample_euler_pp" or bool(getattr(sampler, "extra_options", {}).get("cfg_pp"))


def _override(wrapper: Callable) -> _Override | None:
    """The settings of a wrapper that ComfyUI's CFG Override node has made; None for any other wrapper."""
    if named(wrapper) != _CFG_OVERRIDE:
        return None
    values = inspect.getclosurevars(wrapper).nonlocals
    if not {"cfg", "sigma_lo", "sigma_hi"} <= values.keys():
        return None
    return _Override(float(values["cfg"]), float(values["sigma_lo"]), float(values["sigma_hi"]))


def _cfg_at(cfg: float, overrides: list[_Override], level: float) -> float:
    """CFG at a noise level. Of several matching overrides the last one applies: it is nearest to the guider."""
    return next((o.cfg for o in reversed(overrides) if o.lowest <= level <= o.highest), cfg)


def _may_ask_otherwise(custom: Customisations, sampler: Any) -> bool:
    around = (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE, WrappersMP.CALC_COND_BATCH)
    return (
        custom.wraps(*around)
        or any(name.startswith("sampler_") for name in custom.functions)
        or not is_function_of(("comfy", "torch"), getattr(sampler, "sampler_function", sampler))
    )
