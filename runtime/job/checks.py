"""What can be told before anything starts: which degrees a job gets, and what it asks for that cannot be done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import torch

from ..attention.errors import Unsupported
from ..config import ParallelConfig
from ..parallel.mesh import Degrees, auto_degrees, manual_degrees, one_by_one
from ..sharding.plans import has_plan, plan_for


def devices_of(config: ParallelConfig) -> tuple[str, ...]:
    """One device per worker on this machine. Raises ConfigError for a device that is not there, or a wrong backend.

    A ComfyUI that was told to use the CPU (--cpu) has no CUDA devices.
    """
    devices = config.pool.worker_devices(0 if comfy.model_management.cpu_mode() else torch.cuda.device_count())
    config.pool.resolve_backend(devices)
    if config.strategy.mode == "manual":
        config.strategy.check_world(len(devices))
    return devices


def predicts_by_cfg(guider: Any) -> bool:
    """Whether the guider combines its conditions as ComfyUI's CFGGuider does, not in a way of its own."""
    return type(guider).predict_noise is comfy.samplers.CFGGuider.predict_noise


def conditions_per_call(guider: Any) -> int:
    """How many conditions the guider evaluates at every model call."""
    given = sum(1 for conds in guider.conds.values() if conds)
    skips_negative = math.isclose(guider.cfg, 1.0) and not guider.model_options.get("disable_cfg1_optimization", False)
    # Guiders that predict in their own way inherit a `cfg` that means nothing to them.
    return min(given, 1) if predicts_by_cfg(guider) and skips_negative else given


def degrees_for(config: ParallelConfig, world: int, guider: Any, look_ahead: int = 1) -> Degrees:
    """The degrees of this job, which evaluates `look_ahead` calls at a time where it can.

    Raises ConfigError or Unsupported, each with the way out.
    In mode "auto" they may multiply to less than `world`: a model whose tokens cannot be split shares its CFG only.
    """
    module = guider.model_patcher.model.diffusion_model
    conditions = conditions_per_call(guider)
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        raise Unsupported(
            "MultiGPU CFG Split has put copies of this model on other devices already; bypass that node: Parallel "
            "Model divides the conditions by itself (cfg_degree 2)."
        )
    against_cfg = _reason_against_cfg(guider.model_options)
    if config.strategy.mode == "manual":
        degrees = manual_degrees(config.strategy, world, conditions)
        if degrees.cfg > 1 and against_cfg:
            raise Unsupported(against_cfg)
    else:
        degrees = auto_degrees(
            world,
            conditions=1 if against_cfg else conditions,
            splits_tokens=has_plan(module),
            heads=next((part.num_heads for part in module.modules() if hasattr(part, "num_heads")), None),
            look_ahead=look_ahead,
        )
        degrees = replace(degrees, overlap=config.strategy.overlap)
    if degrees.sequence > 1:
        plan_for(module)
    if look_ahead == 1 and degrees.step > 1:  # a sampler that makes one call after the other
        degrees = degrees_alone(degrees, guider)
        if degrees.step > 1:
            raise Unsupported(
                f"step_degree is {config.strategy.step_degree}, but this sampler makes one call after the other, and "
                "these workers have nothing else to share; choose another sampler, such as euler or dpmpp_2m, or set "
                "step_degree to 1."
            )
    if degrees.world == 1 and look_ahead == 1:
        raise Unsupported(
            f"There is no sequence-parallel plan for {type(module).__name__} and one condition per call, so there is "
            'nothing to share; set CFG above 1, or on_unsupported of Parallel Model to "run on one device".'
        )
    return degrees


def degrees_alone(degrees: Degrees, guider: Any, *, may_split_tokens: bool = True) -> Degrees:
    """The degrees of the same workers for a call that is evaluated alone."""
    against_cfg = _reason_against_cfg(guider.model_options)
    return one_by_one(
        degrees,
        conditions=1 if against_cfg else conditions_per_call(guider),
        splits_tokens=may_split_tokens and has_plan(guider.model_patcher.model.diffusion_model),
    )


def unmet(config: ParallelConfig, degrees: Degrees) -> list[str]:
    """Warnings: what a person has asked for and does not get. `config` is as chosen, before "auto" is resolved."""
    if config.compression.mode in ("auto", "off") or degrees.sequence > 1:
        return []
    return [
        "Nothing was compressed: the workers share the conditions (cfg_degree), which sends one prediction per call. "
        "Residual Compression acts on ulysses_degree and ring_degree."
    ]


def _reason_against_cfg(model_options: dict) -> str:
    """Why the conditions of a call cannot go to different workers; empty when they can."""
    if "sampler_calc_cond_batch_function" in model_options:
        return (
            "A patch on this model evaluates the conditions itself (sampler_calc_cond_batch_function), so cfg_degree "
            "cannot divide them; set cfg_degree to 1."
        )
    cache = model_options.get("transformer_options", {}).get("easycache")
    if getattr(cache, "name", "") == "EasyCache":
        return (
            "EasyCache decides by the first condition what all of them do, which cfg_degree puts on different workers; "
            "set cfg_degree to 1 or use LazyCache."
        )
    return ""
