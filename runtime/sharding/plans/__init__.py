"""The plans, one small table per model family; `plan_for` finds the one for a model."""

from __future__ import annotations

from torch import nn

from ..misfit import expected_of, misfit
from ..plan import Plan, Unsupported
from ..rows.row_plan import RowPlan
from . import (
    ace,
    aura,
    cascade,
    chroma,
    cogvideo,
    cosmos,
    ernie,
    flux,
    hidream,
    hidream_o1,
    hunyuan,
    hunyuan3d,
    hydit,
    ideogram,
    joyimage,
    kandinsky,
    krea,
    lens,
    ltx,
    ltx_av,
    lumina,
    minimax,
    mochi,
    omnigen,
    pixart,
    pixeldit,
    predict2,
    qwen,
    qwen21,
    sd3,
    seedvr,
    stable_audio,
    triposplat,
    unet,
    wan,
    wan_animate2,
)

PLANS = (
    flux.PLAN,
    sd3.PLAN,
    wan.PLAN,
    wan.VACE,
    wan.ANIMATE,
    wan.SOUND,
    wan.HUMO,
    wan.DANCER,
    wan.CAUSAL,
    wan_animate2.PLAN,
    qwen.PLAN,
    qwen.MAGE_FLOW,
    qwen21.PLAN,
    lumina.PLAN,
    lumina.PIXEL_SPACE,
    chroma.PLAN,
    chroma.RADIANCE,
    hunyuan.PLAN,
    ltx.PLAN,
    ltx_av.PLAN,
    aura.PLAN,
    hidream.PLAN,
    predict2.PLAN,
    cogvideo.PLAN,
    cosmos.PLAN,
    mochi.PLAN,
    pixart.PLAN,
    kandinsky.PLAN,
    kandinsky.SOUND,
    stable_audio.PLAN,
    ace.PLAN,
    ace.LINEAR,
    omnigen.PLAN,
    omnigen.BOOGU,
    hydit.PLAN,
    ernie.PLAN,
    hunyuan3d.PLAN,
    hunyuan3d.MOE,
    triposplat.PLAN,
    krea.PLAN,
    lens.PLAN,
    joyimage.PLAN,
    ideogram.PLAN,
    pixeldit.PLAN,
    pixeldit.PID,
    minimax.PLAN,
    hidream_o1.PLAN,
    seedvr.PLAN,
)
ROW_PLANS = (unet.PLAN, cascade.PLAN)
NO_PLAN = "There is no sequence-parallel plan for {}"
DEGREES_WITHOUT_PLAN = (
    "leave ulysses_degree and ring_degree at 1 and use cfg_degree 2 (where CFG is above 1), data_degree (for a batch) "
    'or step_degree, which work with every model, or set on_unsupported of Parallel Model to "run on one device".'
)


def has_plan(module: nn.Module) -> bool:
    """Whether `plan_for` finds a plan for this diffusion module."""
    return not reason_against_plan(module)


def splits_rows(module: nn.Module) -> bool:
    """Whether the plan of this diffusion module splits the rows of a picture, over one mesh axis."""
    return isinstance(_of_class(module), RowPlan)


def plan_for(module: nn.Module) -> Plan | RowPlan:
    """The plan of a diffusion module, by its class.

    Raises Unsupported when there is none, naming the class and the degrees that need no plan, or when the model has
    modules that the plan was not written for.
    """
    plan = _of_class(module)
    if plan is None:
        raise Unsupported(f"{reason_against_plan(module)}: {DEGREES_WITHOUT_PLAN}")
    if what := _misfit(module, plan):
        raise plan.refuse_unfit(what)
    return plan


def reason_against_plan(module: nn.Module) -> str:
    """Why `plan_for` finds no plan, without the way out; empty for a module with a plan."""
    plan = _of_class(module)
    if plan is None:
        return NO_PLAN.format(type(module).__name__)
    what = _misfit(module, plan)
    return plan.not_with(what) if what else ""


def is_unfit(module: nn.Module) -> bool:
    """Whether the class of a module has a plan, but the modules inside are not those the plan was written for."""
    plan = _of_class(module)
    return plan is not None and bool(_misfit(module, plan))


def _misfit(module: nn.Module, plan: Plan | RowPlan) -> str:
    return misfit(module, expected_of(module, plan))


def _of_class(module: nn.Module) -> Plan | RowPlan | None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return next((plan for plan in (*PLANS, *ROW_PLANS) if kind in plan.models), None)
