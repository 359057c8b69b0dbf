"""ComfyUI's own diffusion modules, tiny and with random weights, and inputs for them. Needs COMFYUI_PATH.

One file per file of plans, of the same name; the others are about what workflows add to a model.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch
from device import DEVICE

from .base import inputs, needs_comfyui, randn

__all__ = ["cases", "inputs", "needs_comfyui", "of_every_family", "of_plans", "randn"]
ROWS = ("unet", "cascade")
_PLANS = Path(__file__).resolve().parents[2] / "runtime" / "sharding" / "plans"


def of_plans():
    """{file of plans: the module here of the same name}."""
    names = {module.name for module in iter_modules([str(_PLANS)])} & {module.name for module in iter_modules(__path__)}
    return {name: import_module(f"{__name__}.{name}") for name in sorted(names)}


def cases():
    """{name: (build, keyword arguments of one forward)} of the families whose tokens are split.

    A name begins with the family, up to a comma.
    """
    found = {}
    for name, module in of_plans().items():
        found |= {} if name in ROWS else module.cases()
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
