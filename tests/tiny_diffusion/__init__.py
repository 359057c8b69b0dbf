"""ComfyUI's own diffusion modules, tiny and with random weights, and inputs for them. Needs COMFYUI_PATH."""

import torch
from device import DEVICE

from . import changed, first, guided, image, image_more, newer, patched, recent, recent_video, relatives, video
from .base import needs_comfyui, randn
from .first import FLUX2, flux, inputs, sd3, wan

__all__ = ["FLUX2", "cases", "flux", "inputs", "needs_comfyui", "of_every_family", "randn", "sd3", "wan"]


def cases():
    """{name: (build, keyword arguments of one forward)}; a name begins with the family, up to a comma."""
    found = {}
    for each in (first, image, video, relatives, patched, guided, image_more, recent, recent_video, newer, changed):
        found |= each.cases()
    return found if DEVICE == "cpu" else {name: _on_device(*case) for name, case in found.items()}


def _on_device(build, given):
    """A case of a model on the card."""

    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(DEVICE)
        if isinstance(value, dict):
            return type(value)((name, moved(part)) for name, part in value.items())
        if isinstance(value, list | tuple):
            return type(value)(moved(part) for part in value)
        return value

    return lambda: build().to(DEVICE), moved(given)


def of_every_family():
    """{family of the plan: (module, keyword arguments of one forward)}, the first case of each."""
    from compact_parallel.runtime.sharding.plans import plan_for

    firsts = {}
    for name, case in cases().items():
        firsts.setdefault("pixel space" if "pixel space" in name else name.partition(",")[0], case)
    found = {}
    for build, given in firsts.values():
        module = build()
        found.setdefault(plan_for(module).family, (module, given))
    return found
