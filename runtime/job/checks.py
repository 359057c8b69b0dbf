"""Chooses a job's parallel degrees and refuses what cannot be done, before any worker starts."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import comfy.model_base
import torch

from ..attention.errors import Unsupported
from ..comfy.fits import Misfit, against, refusal
from ..comfy.seam import CFG, DATA, EASYCACHE, ROWS, TOKENS
from ..config import ParallelConfig
from ..parallel.mesh import Degrees, auto_degrees, manual_degrees, one_by_one
from ..sharding.arguments import modules_at
from ..sharding.overrides import is_sparse
from ..sharding.plan import AttentionScope
from ..sharding.plans import has_plan, is_unfit, plan_for, reason_against_plan, splits_rows
from ..sharding.rows.modules import lowest_rows
from .asking import Asked, asked_by, predicts_by_cfg
from .conditions import reason_against_cfg
from .inside import acts_within, conditions_of, replaced_within

# Models that combine the two conditions of a call inside the model, by their positions in the batch.
PAIRS_CONDITIONS = {
    "HunYuanDiTPlain": "Hunyuan3D 2.1 pairs the conditions of a batch within the model, which cfg_degree takes apart; "
    "set cfg_degree to 1 and use data_degree."
}
MIXES_BATCH = (
    "SeedVR2 3B lets the entries of a batch see each other's text, which {} takes apart; set it to 1 and use "
    "ulysses_degree or ring_degree."
)


class NothingToShare(Unsupported):
    """One device does this run as well as all workers, and nothing the user asked for is lost."""


def degrees_for(
    config: ParallelConfig,
    world: int,
    guider: Any,
    noise: torch.Tensor,
    *,
    look_ahead: int = 1,
    asked: Asked | None = None,
    idle: Collection[str] = (),
) -> Degrees:
    """The degrees of this job, which evaluates `look_ahead` calls of latents like `noise` (B, ..., H, W) at a time.

    `asked`: the conditions per call, also as seen in earlier runs; `idle`: the kinds of parallelism that had nothing to
    do in those, which mode "auto" does not choose again.
    Raises ConfigError or Unsupported, each with the way out.
    In mode "auto" the degrees may multiply to less than `world`, if not all workers would have something to do.
    """
    module = guider.model_patcher.model.diffusion_model
    asked = asked or asked_by(guider)
    batch_is_frames = isinstance(guider.model_patcher.model, comfy.model_base.SVD_img2vid)
    batch = 1 if batch_is_frames else noise.shape[0]
    if batch_is_frames and config.strategy.mode == "manual" and config.strategy.data_degree > 1:
        raise Unsupported(
            "The batch of Stable Video Diffusion is the frames of one video, which belong together; "
            f"{way_out('data_degree', guider, noise, asked)}."
        )
    if mixes_batch(module):
        batch = 1
        if config.strategy.mode == "manual" and config.strategy.data_degree > 1:
            raise Unsupported(MIXES_BATCH.format("data_degree"))
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        raise Unsupported(
            "MultiGPU CFG Split has put copies of this model on other devices already; bypass that node: Parallel "
            "Model divides the work by itself."
        )
    if refused := refusal(config.strategy.degrees_set(), kind_of_split(module)):
        raise Unsupported(refused)
    against_cfg = _against_cfg(guider, noise)
    replaced = "" if _changed_parts_run_whole(module) else replaced_within(guider)
    if config.strategy.mode == "manual":
        degrees = manual_degrees(config.strategy, world, asked.most, batch)
        if degrees.cfg > 1 and against_cfg:
            raise Unsupported(against_cfg)
    else:
        degrees = auto_degrees(
            world,
            conditions=1 if against_cfg else asked.usual,
            splits_tokens=_can_split(module) and not replaced and "sequence" not in idle,
            heads=None if splits_rows(module) else _heads(module),
            rows=lowest_rows(module, noise.shape[-2]) if splits_rows(module) else None,
            look_ahead=look_ahead,
            batch=1 if acts_within(guider) or "data" in idle or against(DATA) else batch,
            ring=not _attends_sparsely(guider),
        )
        degrees = replace(degrees, overlap=config.strategy.overlap)
    if degrees.sequence > 1:
        plan_for(module)
        if replaced:
            raise Unsupported(_whole_with(replaced, guider, noise, asked))
    if look_ahead == 1 and degrees.step > 1:  # the sampler cannot look ahead
        degrees = degrees_alone(degrees, guider, noise, asked=asked)
        if degrees.step > 1:
            raise Unsupported(
                f"step_degree is {config.strategy.step_degree}, but this sampler makes one call after the other, and "
                "these workers have nothing else to share; choose another sampler, such as euler or dpmpp_2m, or set "
                "step_degree to 1."
            )
    if degrees.world == 1 and look_ahead == 1:
        if idle:
            raise NothingToShare(
                "The last run of this workflow has shown that its workers have nothing to share, so ComfyUI samples as "
                "always."
            )
        if against_cfg and asked.usual > 1:
            raise Unsupported(against_cfg)
        if misfit := _lost(module, batch):
            raise Unsupported(_nothing_left(misfit))
        if replaced and has_plan(module):
            raise Unsupported(_whole_with(replaced, guider, noise, asked))
        raise Unsupported(_nothing_to_share(module, guider))
    return degrees


def kind_of_split(module: torch.nn.Module) -> str:
    """The capability of ComfyUI that splitting this model needs: TOKENS or ROWS."""
    return ROWS if splits_rows(module) else TOKENS


def refuse_misfits(degrees: Degrees, module: torch.nn.Module) -> None:
    """Raises Unsupported if this process's ComfyUI lacks a capability that these degrees need."""
    if refused := refusal(degrees.named(), kind_of_split(module)):
        raise Unsupported(refused)


def _can_split(module: torch.nn.Module) -> bool:
    return has_plan(module) and not against(kind_of_split(module))


def _lost(module: torch.nn.Module, batch: int) -> Misfit | None:
    """Why this ComfyUI does not let workers share the tokens or else the batch, if the job has any to share."""
    tokens = against(kind_of_split(module)) if has_plan(module) else None
    return tokens or (against(DATA) if batch > 1 else None)


def _nothing_left(misfit: Misfit) -> str:
    return (
        f"These workers have nothing to share: {misfit.reason}; update ComfyUI-CompactParallel, or set on_unsupported "
        'of Parallel Model to "run on one device".'
    )


def _nothing_to_share(module: torch.nn.Module, guider: Any) -> str:
    name = type(module).__name__
    tokens = reason_against_plan(module) or f"The picture has too few rows for {name} to be split"
    # Both conditions would be evaluated if only CFG were higher.
    at_cfg_1 = predicts_by_cfg(guider) and guider.conds.get("negative")
    higher = "set CFG above 1, or " if at_cfg_1 else "set "
    return (
        f"{tokens} and one condition per call, so there is nothing to share; {higher}on_unsupported of Parallel Model "
        'to "run on one device".'
    )


def way_out(degrees: str, guider: Any, noise: torch.Tensor, asked: Asked) -> str:
    """The advice for a job that cannot use the named degrees ("ulysses_degree and ring_degree"): others that work."""
    module = guider.model_patcher.model.diffusion_model
    whole = replaced_within(guider) and not _changed_parts_run_whole(module)
    frames = isinstance(guider.model_patcher.model, comfy.model_base.SVD_img2vid)
    others = {
        "cfg_degree": asked.usual > 1 and not _against_cfg(guider, noise),
        "data_degree": noise.shape[0] > 1 and not (acts_within(guider) or mixes_batch(module) or frames),
        "ring_degree": has_plan(module) and not whole,
    }
    kind = kind_of_split(module)
    left = [name for name, works in others.items() if works and name not in degrees and not refusal({name: 2}, kind)]
    if not left:
        return 'set on_unsupported of Parallel Model to "run on one device"'
    return f"set {degrees} to 1 and use {' or '.join(left)}"


def _changed_parts_run_whole(module: torch.nn.Module) -> bool:
    """Whether modified blocks or layers can run on all tokens or rows while the others run on the local shard."""
    plan = plan_for(module) if has_plan(module) else None
    return bool(getattr(plan, "blocks", ()) or getattr(plan, "layers", ()))


def _attends_sparsely(guider: Any) -> bool:
    """Whether the workflow's attention override is sparse, which needs as many queries as keys."""
    return is_sparse(guider.model_options.get("transformer_options", {}).get("optimized_attention_override"))


def _heads(module: torch.nn.Module) -> int | None:
    """The greatest common divisor of the head counts of all split attention; None if the model does not tell."""
    actions = plan_for(module).actions if has_plan(module) else ()
    paths = [action.path for action in actions if isinstance(action, AttentionScope)]
    parts = [part for path in paths for _, scope in modules_at(module, path) for part in scope.modules()]
    counts = {getattr(part, name, 0) for part in parts for name in ("num_heads", "num_kv_heads")}
    return math.gcd(*counts) or next((part.num_heads for part in module.modules() if hasattr(part, "num_heads")), None)


def _against_cfg(guider: Any, noise: torch.Tensor) -> str:
    """Why the conditions of a call cannot go to different workers, due to model, ComfyUI or patches; "" if they can."""
    module = guider.model_patcher.model.diffusion_model
    kind = type(module).__qualname__
    if noise.shape[0] > 1 and kind in PAIRS_CONDITIONS:
        return PAIRS_CONDITIONS[kind]
    if mixes_batch(module):
        return MIXES_BATCH.format("cfg_degree")
    if misfit := against(CFG) or (_has_easycache(guider) and against(EASYCACHE)):
        return _nothing_left(misfit)
    return reason_against_cfg(guider.model_options)


def _has_easycache(guider: Any) -> bool:
    return "easycache" in guider.model_options.get("transformer_options", {})


def mixes_batch(module: torch.nn.Module) -> bool:
    """Whether the entries of a batch see each other: ComfyUI's SeedVR2 3B repeats the text per window, but uses the
    first rows of it in Q and K for all videos."""
    return type(module).__qualname__ == "NaDiT" and not module._7b_version


def _whole_with(replaced: str, guider: Any, noise: torch.Tensor, asked: Asked) -> str:
    name = type(guider.model_patcher.model.diffusion_model).__name__
    return (
        f"{name} cannot be split over ranks with {replaced}, which may look at all of the picture; "
        f"{way_out('ulysses_degree and ring_degree', guider, noise, asked)}."
    )


def degrees_alone(
    degrees: Degrees, guider: Any, noise: torch.Tensor, *, may_split_tokens: bool = True, asked: Asked | None = None
) -> Degrees:
    """The degrees of the same workers for a call that Step Reuse evaluates alone.

    The user did not ask for this split, so tokens are split only if nothing can refuse it: no guard of the model's plan
    and no picture with too few rows.
    """
    module = guider.model_patcher.model.diffusion_model
    steered = acts_within(guider) or any(cond.get("control") for cond in conditions_of(guider))
    may_split_tokens = may_split_tokens and not steered and not _attends_sparsely(guider)
    return one_by_one(
        degrees,
        conditions=1 if _against_cfg(guider, noise) else (asked or asked_by(guider)).usual,
        splits_tokens=may_split_tokens and _can_split(module) and not splits_rows(module),
    )


def unmet(
    config: ParallelConfig, degrees: Degrees, guider: Any, noise: torch.Tensor, conditions: int | None = None
) -> list[str]:
    """Warnings about settings that have no effect, or that another setting would serve better.

    `config` is as set, before "auto" is resolved. `conditions`: the usual number of conditions per call.
    """
    conditions = asked_by(guider).usual if conditions is None else conditions
    module = guider.model_patcher.model.diffusion_model
    warnings = []
    if config.strategy.mode == "auto" and is_unfit(module):
        warnings.append(f"auto left ulysses_degree and ring_degree out: {reason_against_plan(module)}.")
    if config.compression.mode not in ("auto", "off") and degrees.sequence == 1:
        warnings.append(
            "Nothing was compressed: the workers share calls, batch entries or conditions, which sends one prediction "
            "per call. Residual Compression acts on ulysses_degree and ring_degree."
        )
    shareable = conditions > 1 and not _against_cfg(guider, noise)
    if shareable and degrees.cfg == 1 and degrees.step % 2 == 0:
        warnings.append(
            f"cfg_degree 2 with step_degree {degrees.step // 2} would be as fast here as step_degree {degrees.step} "
            "and change the picture less: the calls ask for two conditions, which are two halves to share."
        )
    return warnings
