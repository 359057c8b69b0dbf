"""The plans of ControlNets, which have blocks like those of the model they steer: Flux, SD3, SD3.5, Qwen-Image, UNets.

A ControlNet runs before the model, on the same picture, and outputs control for all tokens or rows. It is gathered
after the small output layer of each block, unless the model takes only the local part. ControlNets of other classes run
whole on every rank.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from .plan import Action, AttentionScope, ControlResiduals, Gather, Passed, Plan, Split
from .plans import flux, qwen, sd3, unet
from .rows.row_plan import RowPlan

_RESIDUALS = Gather("controlnet_blocks.*", ("image",))


def _inside(plan: Plan, last: str) -> tuple[Action, ...]:
    """The actions of a model's plan within its blocks: all but control and the gathering after its layer `last`."""
    return tuple(
        action for action in plan.all_actions if not isinstance(action, ControlResiduals) and action.path != last
    )


FLUX = Plan(
    family="Flux ControlNet",
    models=("comfy.ldm.flux.controlnet.ControlNetFlux",),
    joint=("text", "image"),
    actions=(*_inside(flux.PLAN, "final_layer"), _RESIDUALS, Gather("controlnet_single_blocks.*", ("image",))),
    passed=(*flux.PLAN.passed, Passed("single_blocks.*", ("x",))),
)
QWEN = Plan(
    family="Qwen-Image ControlNet",
    models=("comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel",),
    joint=("text", "image"),
    actions=(*_inside(qwen.PLAN, "proj_out"), _RESIDUALS),
    passed=qwen.PLAN.passed,
)
SD3 = Plan(
    family="SD3 ControlNet",
    models=("comfy.cldm.mmdit.ControlNet",),
    joint=("text", "image"),
    actions=(
        Split("joint_blocks.first", "context", "text"),
        Split("joint_blocks.first", "x", "image"),
        AttentionScope("joint_blocks.*", calls=(("text", "image"), ("image",))),
        _RESIDUALS,
    ),
    passed=sd3.PLAN.passed,
)
SD35 = Plan(
    family="SD3.5 ControlNet",
    models=("comfy.cldm.dit_embedder.ControlNetEmbedder",),
    joint=("image",),
    actions=(
        Split("transformer_blocks.first", "x", "image"),
        AttentionScope("transformer_blocks.*"),
        _RESIDUALS,
    ),
    passed=(Passed("transformer_blocks.*", ("c",)),),
)
# Its blocks (8B) all take the picture itself, not the output of the block before.
SD35_PARALLEL = replace(SD35, actions=(Split("transformer_blocks.*", "x", "image"), *SD35.actions[1:]))

# The first block, to whose output the hint is added, runs whole on every rank; paths are those of the modules after it.
UNET = replace(
    unet.PLAN,
    family="UNet ControlNet",
    models=("comfy.cldm.cldm.ControlNet",),
    last="middle_block_out",
    upsamples=(),
    skips="",
    layers=(),
    without_rows=(),
)


def control_plan(module: nn.Module) -> Plan | RowPlan | None:
    """The plan of a ControlNet, by its class; None for classes that every rank runs whole."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind in SD35.models and module.double_y_emb:
        return SD35_PARALLEL
    return next((plan for plan in (FLUX, QWEN, SD3, SD35, UNET) if kind in plan.models), None)
