"""Classifies the modules of a UNet by what they do to rows."""

from __future__ import annotations

from torch import nn

from ..preferred import is_preference
from .row_layout import heights_of
from .row_plan import RowPlan

_LOCAL = (
    nn.Linear, nn.LayerNorm, nn.Embedding, nn.SiLU, nn.GELU, nn.Dropout, nn.Identity, nn.Sequential, nn.ModuleList,
)  # fmt: skip
_CASTING = "comfy.ops"


def named(module: nn.Module) -> str:
    """The class of a module, as plans name it."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def spans_rows(module: nn.Module, plan: RowPlan) -> bool:
    """Whether a pixel of the module's output depends on more than that pixel of its input."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return module.kernel_size[-2] > 1
    return isinstance(module, nn.GroupNorm) or named(module) in plan.norms


def is_upsample(module: nn.Module, plan: RowPlan) -> bool:
    """Whether the module makes maps of the next higher resolution."""
    return isinstance(module, nn.ConvTranspose2d) or named(module) in plan.upsamples


def downs_of(module: nn.Module) -> int:
    """The number of its convolutions that halve the rows."""
    return sum(isinstance(m, nn.Conv2d | nn.Conv3d) and m.stride[-2] > 1 for m in module.modules())


def must_divide(module: nn.Module) -> int:
    """The divisor that the rows must have: 2 to the number of resolutions that are halved without rounding up, or 1."""
    return 2 ** sum(isinstance(m, nn.ConvTranspose2d) for m in module.modules())


def lowest_rows(module: nn.Module, height: int) -> int:
    """The rows at the lowest resolution of a latent of `height` rows: the largest number of shards."""
    for unshuffle in (m for m in module.modules() if isinstance(m, nn.PixelUnshuffle)):
        height //= unshuffle.downscale_factor
    return 1 if height % must_divide(module) else heights_of(height, downs_of(module))[-1]


def refused_module(module: nn.Module, plan: RowPlan) -> str:
    """Why a model with this module cannot be split; empty if it can."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        kernel, stride, padding, dilation = (
            size[-2] for size in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        reach = dilation * (kernel - 1)
        keeps = stride == 1 and 2 * padding == reach
        halves = (stride, padding, reach) in ((2, 1, 2), (2, 0, 1))
        if module.padding_mode != "zeros" or not (keeps or halves):
            return f"a convolution of kernel {kernel}, stride {stride} and padding {padding}"
        return ""
    if isinstance(module, nn.ConvTranspose2d):
        doubles = (module.kernel_size[-2], module.stride[-2], module.padding[-2], module.output_padding[-2])
        return "" if doubles == (2, 2, 0, 0) else f"a transposed convolution of kernel {doubles[0]}"
    known = (
        isinstance(module, (nn.GroupNorm, *_LOCAL))
        or named(module) in (*plan.models, *plan.transformers, *plan.upsamples, *plan.local, *plan.norms)
        or type(module).__module__ == _CASTING
        or is_preference(module)
    )
    return "" if known else f"a module of the class {named(module)}"
