"""Wan 2.1 and 2.2: text or image to video, Bernini, camera, SCAIL, VACE, Animate, HuMo, sound to video, WanDancer.

Only video tokens are split; cross-attention has local queries and the whole text, and needs no exchange. Reference,
context, pose and motion latents are more video tokens, cut off after the head. A time step per frame (2.2 5B, sound to
video) becomes one per local token. VACE's blocks carry tokens of their own beside the model's. Modules that combine
frames with sound or faces look at all frames, so they get all tokens. The causal model is an ordinary text-to-video
model, unless its own sampler makes the video block by block: it then attends to the keys of earlier blocks, which it
keeps for all tokens.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..local_shard import LocalShard
from ..plan import (
    Action,
    AttentionScope,
    Blocks,
    Gather,
    Guard,
    LocalArgument,
    Passed,
    Plan,
    Replicate,
    Split,
    SplitJoint,
)
from .guards import CONTROL, INSIDE, PATCHES


def _per_token(e: Tensor, shard: LocalShard) -> Tensor:
    return shard.repeated(e) if e.ndim == 4 else e


def _per_frame(e: Tensor, shard: LocalShard) -> Tensor:
    return shard.repeated(e) if e.ndim == 3 else e


_ACTIONS = (
    SplitJoint("blocks.*", "freqs", dim=1),
    LocalArgument("blocks.*", "e", ("video",), _per_token),
    LocalArgument("head", "e", ("video",), _per_frame, outside=True),
    AttentionScope("blocks.*.self_attn"),
)
_SOUND = ("block_id", "audio_emb", "audio_emb_global", "seq_len", "scale")
_PASSED = (Passed("blocks.*", ("context", "context_img_len")), Passed("head", ("x",)))
_BLOCKS = (Blocks("blocks.*", (("x", ("video",), None),)),)


def _plan(family: str, models: tuple[str, ...], *more: Action, passed: tuple[Passed, ...] = ()) -> Plan:
    return Plan(
        family=family,
        models=tuple(f"comfy.ldm.wan.{model}" for model in models),
        joint=("video",),
        blocks=_BLOCKS,
        actions=(*_ACTIONS, *more, Gather("head", ("video",))),
        passed=(*_PASSED, *passed),
        guards=(INSIDE, CONTROL),
    )


PLAN = _plan("Wan", ("model.WanModel", "model.CameraWanModel", "model.SCAILWanModel", "model.SCAIL2WanModel"))
ANIMATE = _plan(
    "Wan Animate",
    ("model_animate.AnimateWanModel",),
    Replicate("face_adapter.fuser_blocks.*", "x", "video", outside=True),
    passed=(Passed("face_adapter.fuser_blocks.*", ("motion_vec", "motion_mask")),),
)
SOUND = _plan(
    "Wan sound to video",
    ("model.WanModel_S2V",),
    Replicate("audio_injector", "x", "video", outside=True),
    passed=(Passed("audio_injector", _SOUND),),
)
HUMO = _plan(
    "Wan HuMo",
    ("model.HumoWanModel",),
    Replicate("blocks.*.audio_cross_attn_wrapper", "x", "video"),
    passed=(Passed("blocks.*", ("audio",)),),
)
DANCER = _plan(
    "WanDancer",
    ("model_wandancer.WanDancerModel",),
    Replicate("music_injector", "x", "video", outside=True),
    LocalArgument("head_global", "e", ("video",), _per_frame, outside=True),
    Gather("head_global", ("video",)),
    passed=(Passed("music_injector", _SOUND), Passed("head_global", ("x",))),
)
CAUSAL = replace(
    _plan(
        "Wan causal",
        ("ar_model.CausalWanModel",),
        passed=(Passed("blocks.*", ("kv_cache", "crossattn_cache")),),
    ),
    guards=(
        INSIDE,
        CONTROL,
        Guard(
            lambda arguments: (arguments.get("transformer_options") or {}).get("ar_state") is not None,
            "a sampler that makes the video block by block (ar_video)",
        ),
    ),
)

VACE = Plan(
    family="Wan VACE",
    models=("comfy.ldm.wan.model.VaceWanModel",),
    joint=("video",),
    actions=(
        Split("blocks.first", "x", "video"),
        Split("vace_blocks.first", "c", "video"),
        *(action for action in _ACTIONS if action.path != "head" and getattr(action, "arg", "") != "e"),
        SplitJoint("vace_blocks.first", "x", dim=1),
        SplitJoint("vace_blocks.*", "freqs", dim=1),
        AttentionScope("vace_blocks.*.self_attn"),
        Gather("head", ("video",)),
    ),
    passed=(
        *_PASSED,
        Passed("blocks.*", ("e",)),
        Passed("head", ("e",)),
        Passed("vace_blocks.*", ("e", "context", "context_img_len")),
    ),
    guards=(PATCHES, CONTROL),
)
