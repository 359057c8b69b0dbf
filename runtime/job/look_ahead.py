"""Decides how far ahead Step Reuse looks in a job, before any worker starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from ..attention.errors import Unsupported
from ..comfy.fits import against, refusal
from ..comfy.seam import STEP
from ..config import ParallelConfig, StepReuseConfig, chosen_step_reuse
from ..parallel.mesh import Degrees
from ..parallel.step.inputs import Replay
from ..parallel.step.samplers import SERIAL, Kind, kind_of, name_of
from ..parallel.wrappers import AROUND_A_CALL
from .asking import predicts_by_cfg
from .checks import PAIRS_CONDITIONS, mixes_batch
from .inside import acts_within, conditions_of, wraps

# Fewer rounds than this gain too little for the risk.
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class LookAhead:
    """Step Reuse as the job will run it. `batches`: whether one worker may evaluate several calls as one batch."""

    config: StepReuseConfig
    kind: Kind | None = None
    batches: bool = False
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict:
        """The chosen settings, and how the sampler looks ahead."""
        about = {"way": self.kind.way, "reason": self.kind.reason} if self.kind is not None else {}
        return {**self.config.to_json(), **about}


def look_ahead_for(config: ParallelConfig, guider: Any, arguments: Any) -> LookAhead:
    """Step Reuse for this sampler, model and number of steps. Raises ConfigError or Unsupported.

    A sampler that cannot look ahead runs one call after the other, with a warning.
    """
    reuse = chosen_step_reuse(config)
    if not reuse.enabled:
        return LookAhead(StepReuseConfig())
    if misfit := against(STEP):
        if refused := refusal(config.strategy.degrees_set()):
            raise Unsupported(refused)
        return LookAhead(StepReuseConfig(), warnings=(f"Step Reuse did nothing: {misfit.sentence}",))
    sampler = arguments.sampler
    kind, name = kind_of(sampler), name_of(sampler)
    if kind.refused:
        raise Unsupported(
            f"Step Reuse cannot be used with the sampler {name}: {kind.reason}. Choose another sampler, such as euler "
            "or dpmpp_2m, or unplug Step Reuse (and set step_degree to 1)."
        )
    if kind.way == SERIAL:
        warning = f"Step Reuse did nothing: the sampler {name} runs one call after the other, because {kind.reason}."
        return LookAhead(StepReuseConfig(), kind, warnings=(warning,))
    _refuse_caches(guider.model_options)
    _refuse_schedules(guider)
    calls = calls_of(guider, arguments)
    least = reuse.warmup_calls + reuse.tail_calls + LEAST_ROUNDS * reuse.look_ahead
    if calls < least:
        # The largest look_ahead that fits into these calls; it must be at least step_degree.
        fits = (calls - reuse.warmup_calls - reuse.tail_calls) // LEAST_ROUNDS
        step_degree = config.strategy.step_degree if config.strategy.mode == "manual" else 1
        smaller = f"look_ahead {fits}" if fits >= max(2, step_degree) else ""
        unplug = "unplug Step Reuse" if step_degree == 1 else "set step_degree to 1 and unplug Step Reuse"
        raise Unsupported(
            f"Step Reuse needs at least {least} model calls (warmup_calls {reuse.warmup_calls} + tail_calls "
            f"{reuse.tail_calls} + {LEAST_ROUNDS} rounds of look_ahead {reuse.look_ahead}), but this run has {calls}; "
            f"use more steps{' or ' + smaller if smaller else ''}, or {unplug} (distilled models with few steps do not "
            "gain from it)."
        )
    reason = _reason_against_batches(guider, arguments)
    return LookAhead(reuse, kind, not reason, (_unbatched(reason),) if reason else ())


def calls_of(guider: Any, arguments: Any) -> int:
    """The number of model calls the sampler will make (see Replay.rehearse)."""
    patcher, sampler = guider.model_patcher, arguments.sampler
    model = SimpleNamespace(inner_model=SimpleNamespace(inner_model=patcher.model, model_patcher=patcher))
    extra = {"model_options": {}, "seed": arguments.seed}
    sigmas = arguments.sigmas.to(arguments.noise.device, copy=True)
    return len(
        Replay(sampler.sampler_function, model, arguments.noise, sigmas, extra, sampler.extra_options).rehearse()
    )


def limited(ahead: LookAhead, degrees: Degrees, *, auto: bool) -> LookAhead:
    """`ahead`, limited to what these degrees allow: without batches a round has at most one call per step group.

    If that leaves one call per round, mode "auto" with several workers switches Step Reuse off with a warning; all else
    raises Unsupported.
    """
    reach = ahead.config.look_ahead if ahead.batches else min(ahead.config.look_ahead, degrees.step)
    if not ahead.config.enabled or reach == ahead.config.look_ahead:
        return replace(ahead, warnings=() if ahead.config.enabled else ahead.warnings)
    if reach == 1 and auto and degrees.world > 1:
        what = " and ".join(
            name for name, size in (("the conditions", degrees.cfg), ("the batch", degrees.data)) if size > 1
        )
        shared = (
            f"Step Reuse did nothing: the workers share {what}, which is as fast and changes nothing. More workers "
            "would look ahead."
        )
        if degrees.sequence > 1:
            shared = (
                f"Step Reuse did nothing: these {degrees.world} workers cannot be divided into groups for it, so they "
                "share the tokens."
            )
        return LookAhead(StepReuseConfig(), ahead.kind, warnings=(shared,))
    if reach == 1:
        more = "use two workers or more" if degrees.world == 1 else "set step_degree of Parallel Strategy to 2 or more"
        raise Unsupported(
            f"{ahead.warnings[0]} With step_degree 1 nothing is left to look ahead with; {more}, or unplug Step Reuse."
        )
    return replace(ahead, config=replace(ahead.config, look_ahead=reach))


def _unbatched(reason: str) -> str:
    return f"Step Reuse evaluates one call per worker at a time, because {reason}."


def _refuse_caches(model_options: dict) -> None:
    cache = model_options.get("transformer_options", {}).get("easycache")
    if cache is not None:
        raise Unsupported(
            f"{getattr(cache, 'name', 'EasyCache')} skips model calls by comparing each with the one before, and Step "
            "Reuse makes calls ahead of their time; use one of the two."
        )


def _refuse_schedules(guider: Any) -> None:
    """Refuses keyframed hooks on default conditions, as only the call itself shows whether those take part in it."""
    for cond in conditions_of(guider):
        hooks = getattr(cond.get("hooks"), "hooks", []) if "default" in cond else []
        if any(len(hook.hook_keyframe.keyframes) > 1 for hook in hooks):
            raise Unsupported(
                "A default condition (Cond Set Default Combine) has hooks with keyframes (a scheduled LoRA or model "
                "hook), which go by the calls it takes part in, and with Step Reuse no worker sees all; unplug Step "
                "Reuse, or use hooks without keyframes there."
            )


def _reason_against_batches(guider: Any, arguments: Any) -> str:
    """Why calls of different steps cannot be evaluated as one batch; empty if they can."""
    if arguments.denoise_mask is not None:
        return "the latent has a noise mask"
    module = guider.model_patcher.model.diffusion_model
    if mixes_batch(module) or type(module).__qualname__ in PAIRS_CONDITIONS:
        return "the entries of a batch see each other in this model"
    options = guider.model_options
    transformer_options = options.get("transformer_options", {})
    around = any(key.startswith("sampler_") for key in options) or wraps(guider, *AROUND_A_CALL)
    windows = transformer_options.get("context_handler") or options.get("context_handler") is not None
    if around or windows or acts_within(guider):
        return "patches of this model may act by the step, and a batch would hold several"
    if not predicts_by_cfg(guider):
        return f"the guider {type(guider).__name__} may act by the step, and a batch would hold several"
    scheduled = ("start_percent", "end_percent", "clip_start_percent", "hooks", "control", "area", "mask")
    for cond in conditions_of(guider):
        if found := [key for key in scheduled if cond.get(key) is not None]:
            return f"a condition has {found[0]}, which acts by the step"
    return ""
