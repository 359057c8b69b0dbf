"""Which pipelines xfuser runs as diffusers does, and how each may be divided: a table, and what is refused.

A pipeline that is not in the table may be one that xfuser knows, but nobody has compared the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...attention.unsupported import Unsupported
from ...config import ConfigError, XditConfig
from ...parallel.mesh import Degrees

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_OTHERWISE = "or run this pipeline without xDiT"


@dataclass(frozen=True)
class Family:
    """How xfuser can divide one class of pipelines.

    `guided`: its loop always evaluates two conditions, so guidance is needed; `cfg`: it can divide them over workers.
    `stages`: it has PipeFusion that works. `whole_text`: with PipeFusion off, text tokens that the ranks cannot share
    equally are attended to once per rank.
    """

    pipeline: str
    guided: bool = True
    cfg: bool = True
    stages: bool = True
    whole_text: bool = False


FAMILIES = {
    family.pipeline: family
    for family in (
        Family("FluxPipeline", guided=False, cfg=False, whole_text=True),
        Family("PixArtSigmaPipeline"),
        Family("PixArtAlphaPipeline"),
        Family("StableDiffusion3Pipeline", stages=False),
        Family("CogVideoXPipeline", stages=False),
        Family("LattePipeline", cfg=False, stages=False),
    )
}


def check(pipe: DiffusionPipeline, settings: XditConfig, degrees: Degrees, call: Mapping[str, Any], world: int) -> None:
    """Raises ConfigError or Unsupported, in one sentence, for what xfuser cannot do or would do wrong."""
    name = type(pipe).__name__
    family = FAMILIES.get(name)
    if family is None:
        raise Unsupported(
            f"xDiT is not known to run {name} right; it runs {', '.join(FAMILIES)}; choose one, {_OTHERWISE}."
        )
    _check_degrees(family, settings, degrees, world)
    _check_heads(pipe, degrees)
    if getattr(pipe.transformer, "_hf_peft_config_loaded", False):
        raise Unsupported(
            f"The model has an adapter such as a LoRA beside its weights, which xDiT cannot divide; fuse it into them, "
            f"{_OTHERWISE}."
        )
    if getattr(pipe.scheduler.config, "stochastic_sampling", False):
        raise Unsupported(
            "The scheduler of this pipeline has stochastic_sampling on, which xDiT would ignore; choose another one, "
            f"{_OTHERWISE}."
        )
    if getattr(pipe.transformer.config, "dual_attention_layers", ()):
        raise Unsupported(
            f"Some blocks of this model attend twice, as in Stable Diffusion 3.5 medium, which xDiT does not know; "
            f"choose another model, {_OTHERWISE}."
        )
    _check_stages(pipe, settings)
    check_call(pipe, settings, degrees, call)


def _check_degrees(family: Family, settings: XditConfig, degrees: Degrees, world: int) -> None:
    if world < 2:
        raise ConfigError(f"The pool has {world} worker, but xDiT divides a run over 2 or more; use a larger pool.")
    total = degrees.world * settings.pipefusion_degree
    if total != world:
        factors = " x ".join(f"{name} {size}" for name, size in degrees.named().items())
        raise ConfigError(
            f"The degrees multiply to {total} ({factors} x pipefusion_degree {settings.pipefusion_degree}) but the "
            f"pool has {world} workers; make both numbers equal."
        )
    if degrees.step > 1:
        raise ConfigError(f"step_degree is {degrees.step} but xDiT evaluates one step after the other; set it to 1.")
    if degrees.data > 1:
        raise ConfigError(
            f"data_degree is {degrees.data} but xDiT would give every part of the batch the same noise; set it to 1."
        )
    if degrees.cfg not in (1, 2):
        raise ConfigError(f"cfg_degree is {degrees.cfg}; xDiT divides guidance over 1 or 2 workers.")
    if degrees.cfg > 1 and not family.cfg:
        raise Unsupported(
            f"cfg_degree is {degrees.cfg} but xDiT does not divide the conditions of {family.pipeline}; set it to 1."
        )
    if settings.pipefusion_degree > 1 and not family.stages:
        raise Unsupported(
            f"pipefusion_degree is {settings.pipefusion_degree} but PipeFusion of xDiT does not run "
            f"{family.pipeline}; set it to 1 and use ulysses_degree or ring_degree."
        )


def _check_heads(pipe: DiffusionPipeline, degrees: Degrees) -> None:
    heads = pipe.transformer.config.num_attention_heads
    if heads % degrees.ulysses:
        raise Unsupported(
            f"ulysses_degree is {degrees.ulysses} but this model has {heads} attention heads, which {degrees.ulysses} "
            f"does not divide; choose a ulysses_degree that divides {heads} and give the other ranks to ring_degree."
        )


def _check_stages(pipe: DiffusionPipeline, settings: XditConfig) -> None:
    stages, model = settings.pipefusion_degree, pipe.transformer
    if stages == 1:
        return
    blocks = sum(len(getattr(model, name, ())) for name in ("transformer_blocks", "single_transformer_blocks"))
    if (stages - 1) * -(-blocks // stages) >= blocks:
        raise Unsupported(
            f"pipefusion_degree is {stages} but the {blocks} blocks of this model leave a stage without any; choose a "
            "smaller pipefusion_degree."
        )


def check_call(pipe: DiffusionPipeline, settings: XditConfig, degrees: Degrees, call: Mapping[str, Any]) -> None:
    """The part of `check` that is about the arguments of one call."""
    family = FAMILIES[type(pipe).__name__]
    if call.get("generator") is None:
        raise Unsupported(
            "xDiT draws the noise on every worker by itself, so all must draw the same; give the run a seed."
        )
    scale = argument(pipe, call, "guidance_scale")
    if family.guided and scale is not None and scale <= 1:
        raise Unsupported(
            f"guidance_scale is {scale}, which means no guidance, but xDiT's {family.pipeline} always evaluates two "
            f"conditions; choose one above 1, {_OTHERWISE}."
        )
    embeds = call.get("prompt_embeds")
    tokens = argument(pipe, call, "max_sequence_length") if embeds is None else embeds.shape[1]
    if family.whole_text and settings.pipefusion_degree == 1 and tokens and tokens % degrees.sequence:
        raise Unsupported(
            f"The prompt has {tokens} tokens, which the {degrees.sequence} workers of ulysses_degree and ring_degree "
            "cannot share equally, and xDiT would count it several times; choose a max_sequence_length that "
            f"{degrees.sequence} divides."
        )


def argument(pipe: DiffusionPipeline, call: Mapping[str, Any], name: str) -> Any:
    """An argument of a call of the pipeline, or its default; None if it has no such argument."""
    if name in call:
        return call[name]
    parameter = inspect.signature(type(pipe).__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def arguments_for(pipe: DiffusionPipeline, wrapped: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """The call's arguments for xfuser's version of the pipeline, with the defaults of the pipeline itself.

    Raises Unsupported for an argument that xfuser's version would ignore, unless it is at its default.
    """
    own = inspect.signature(type(pipe).__call__).parameters
    theirs = inspect.signature(type(wrapped).__call__).parameters
    chosen = {name: argument(pipe, call, name) for name in theirs if name != "self" and (name in call or name in own)}
    for name, value in call.items():
        if name not in theirs and not (name in own and (value is own[name].default or value == own[name].default)):
            raise Unsupported(
                f"{name} is set, which xDiT's {type(pipe).__name__} does not know and would ignore; leave it out, "
                f"{_OTHERWISE}."
            )
    return chosen
