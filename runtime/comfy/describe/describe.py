"""Describes one of ComfyUI's sampling jobs by plain facts, from which `planner.run_plan` decides how it is shared."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch

from ...attention.unsupported import Unsupported
from ...parallel.step.replay import Replay
from ...parallel.step.samplers import SERIAL, kind_of, name_of
from ...planner.capabilities import ROWS, TOKENS
from ...planner.facts import JobFacts, ModelFacts, SamplerFacts
from ...sharding.module_arguments import modules_at
from ...sharding.plan import AttentionScope
from ...sharding.plans import is_unfit, plan_for, reason_against_plan, splits_rows
from ...sharding.rows.row_effects import lowest_rows
from ..brownian_noise import RememberedNoise
from .cfg_patches import reason_against_cfg
from .conditions_per_call import asked_by, predicts_by_cfg
from .customisations import scan_job
from .exchanged_bytes import of_rows, of_tokens
from .fingerprint import way_of_asking, workflow_of
from .look_ahead_patches import reason_against_batched_calls, reason_against_look_ahead
from .traits import traits_of


def describe(guider: Any, arguments: Any, *, count_calls: bool = False) -> JobFacts:
    """The facts of an `outer_sample` call: a guider, and its arguments (see shipping.sampling_job.Arguments).

    `count_calls`: also count the model calls of a sampler that can look ahead, which runs it once without the model.
    """
    custom = scan_job(guider)
    asked = asked_by(guider, custom, arguments)
    return JobFacts(
        model=model_facts(guider.model_patcher.model, arguments.noise),
        batch=arguments.noise.shape[0],
        asked=asked,
        sampler=_sampler_facts(guider, arguments, count_calls),
        one_at_cfg_1=bool(asked.usual == 1 and predicts_by_cfg(guider) and guider.conds.get("negative")),
        replaced=custom.replaced,
        sees_batch=custom.sees_batch,
        controlled=any(cond.get("control") for cond in custom.conditions),
        sparse=custom.sparse,
        against_cfg=reason_against_cfg(guider.model_options),
        against_look_ahead=reason_against_look_ahead(custom),
        against_batched_calls=reason_against_batched_calls(custom, guider, arguments),
        easycache=custom.easycache is not None,
        split_elsewhere=bool(guider.model_patcher.get_additional_models_with_key("multigpu")),
        itemsize=guider.model_patcher.model.get_dtype_inference().itemsize,
        asking=way_of_asking(guider, arguments.sampler),
        workflow=workflow_of(guider, arguments),
    )


def model_facts(model: Any, noise: torch.Tensor) -> ModelFacts:
    """How a model (a comfy.model_base.BaseModel) can be split, for latents like `noise` (B, ..., H, W)."""
    module = model.diffusion_model
    name, traits, rows = type(module).__name__, traits_of(model), splits_rows(module)
    kind = ROWS if rows else TOKENS
    try:
        plan = plan_for(module)
    except Unsupported as refused:
        reason = reason_against_plan(module)
        return ModelFacts(name, kind, reason, str(refused), is_unfit(module), traits=traits)
    return ModelFacts(
        name,
        kind,
        heads=None if rows else _heads(_attention(module, plan.actions), module),
        rows=lowest_rows(module, noise.shape[-2]) if rows else None,
        exchanged_bytes=of_rows(model, noise) if rows else of_tokens(_attention(module, plan.actions), model, noise),
        splits_around_changes=bool(getattr(plan, "blocks", ()) or getattr(plan, "layers", ())),
        traits=traits,
    )


def _attention(module: torch.nn.Module, actions: tuple[Any, ...]) -> list[torch.nn.Module]:
    """The modules whose attention is split."""
    paths = [action.path for action in actions if isinstance(action, AttentionScope)]
    return [scope for path in paths for _, scope in modules_at(module, path)]


def _heads(scopes: list[torch.nn.Module], module: torch.nn.Module) -> int | None:
    parts = [part for scope in scopes for part in scope.modules()]
    counts = {getattr(part, name, 0) for part in parts for name in ("num_heads", "num_kv_heads")}
    return math.gcd(*counts) or next((part.num_heads for part in module.modules() if hasattr(part, "num_heads")), None)


def _sampler_facts(guider: Any, arguments: Any, count_calls: bool) -> SamplerFacts:
    sampler = arguments.sampler
    kind = kind_of(sampler)
    counted = count_calls and kind.way != SERIAL and not kind.refused
    return SamplerFacts(name_of(sampler), kind, _calls_of(guider, arguments) if counted else None)


def _calls_of(guider: Any, arguments: Any) -> int:
    """The number of model calls the sampler will make (see Replay.rehearse)."""
    patcher, sampler = guider.model_patcher, arguments.sampler
    model = SimpleNamespace(inner_model=SimpleNamespace(inner_model=patcher.model, model_patcher=patcher))
    extra = {"model_options": {}, "seed": arguments.seed}
    sigmas = arguments.sigmas.to(arguments.noise.device, copy=True)
    sample, options = sampler.sampler_function, sampler.extra_options
    return len(Replay(sample, model, arguments.noise, sigmas, extra, options, RememberedNoise().in_use).rehearse())
