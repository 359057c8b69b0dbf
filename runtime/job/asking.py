"""How many conditions a guider asks for in one call of the model, as far as that can be told before a run.

What ComfyUI's own guiders do is known. What code of other packs does, the calls show (see planner/experience.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP

from ..sharding.origin import is_function_of
from .fingerprint import Named, named
from .inside import wrappers_of


@dataclass(frozen=True)
class Asked:
    """`usual`: at least half of the calls ask for so many conditions, as far as one can tell.

    `most`: none asks for more; None where that is not certain.
    """

    usual: int
    most: int | None = None


@dataclass(frozen=True)
class _Override:
    """CFG Override: between two noise levels CFG is another."""

    cfg: float
    lowest: float
    highest: float


def asked_by(guider: Any, arguments: Any = None) -> Asked:
    """What the calls of this guider ask for; `arguments` are those of its outer_sample, where they are known."""
    held = {name for name, conds in guider.conds.items() if conds}
    count = _COUNTS.get(named(type(guider).predict_noise))
    if count is None:
        return Asked(len(held))
    sampler = getattr(arguments, "sampler", None)
    always = bool(guider.model_options.get("disable_cfg1_optimization")) or _needs_all(sampler)
    overrides = [_override(wrapper) for wrapper in wrappers_of(guider, WrappersMP.PREDICT_NOISE)]
    known = [override for override in overrides if override is not None]
    levels = [float(level) for level in arguments.sigmas[:-1]] if arguments is not None else []
    usual = sorted(count(guider, held, _cfg_at(guider.cfg, known, level), always) for level in levels)
    ever = [count(guider, held, cfg, always) for cfg in (guider.cfg, *(override.cfg for override in known))]
    # What is around the model may change CFG, or keep ComfyUI from leaving conditions out.
    certain = len(known) == len(overrides) and not _may_ask_otherwise(guider, sampler)
    return Asked(usual[len(usual) // 2] if usual else ever[0], max(ever) if certain else None)


def predicts_by_cfg(guider: Any) -> bool:
    """Whether the guider combines its conditions as ComfyUI's CFGGuider does, not in a way of its own."""
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
    """Whether this is a CFG++ sampler: they need the negative prompt's prediction whatever CFG is."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return "cfg_pp" in name or name == "sample_euler_pp" or bool(getattr(sampler, "extra_options", {}).get("cfg_pp"))


def _override(wrapper: Callable) -> _Override | None:
    """The CFG Override that this wrapper is, if it is one."""
    if named(wrapper) != _CFG_OVERRIDE:
        return None
    values = inspect.getclosurevars(wrapper).nonlocals
    if not {"cfg", "sigma_lo", "sigma_hi"} <= values.keys():
        return None
    return _Override(float(values["cfg"]), float(values["sigma_lo"]), float(values["sigma_hi"]))


def _cfg_at(cfg: float, overrides: list[_Override], level: float) -> float:
    """CFG at a noise level; of several overrides the last one is nearest to the guider."""
    return next((o.cfg for o in reversed(overrides) if o.lowest <= level <= o.highest), cfg)


def _may_ask_otherwise(guider: Any, sampler: Any) -> bool:
    around = (WrappersMP.OUTER_SAMPLE, WrappersMP.SAMPLER_SAMPLE, WrappersMP.CALC_COND_BATCH)
    return (
        any(wrappers_of(guider, *around))
        or any(name.startswith("sampler_") for name in guider.model_options)
        or not (sampler is None or is_function_of(("comfy", "torch"), getattr(sampler, "sampler_function", sampler)))
    )
