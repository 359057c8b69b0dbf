"""Every model that ComfyUI 0.30 samples has a plan; a later one may have others, which are refused by name."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.plans import PLANS, ROW_PLANS, plan_for
from tiny_diffusion import needs_comfyui
from tiny_diffusion.base import use_comfyui

pytestmark = needs_comfyui
NOT_SAMPLED = {"RT_DETR_v4", "SAM3", "DepthAnything3"}  # they find things in pictures


def version():
    """(major, minor) of the installed ComfyUI."""
    use_comfyui()
    import comfyui_version

    return tuple(int(part) for part in comfyui_version.__version__.split(".")[:2])


class Found(Exception):
    """Carries the class of a model's diffusion module."""


@pytest.fixture
def diffusion_modules(monkeypatch):
    """{model: "module.Class" of its diffusion module}, for all of comfy/model_base.py."""
    use_comfyui()
    import comfy.model_base

    def build(model, model_config, model_type=None, device=None, unet_model=comfy.model_base.UNetModel):
        raise Found(f"{unet_model.__module__}.{unet_model.__qualname__}")

    monkeypatch.setattr(comfy.model_base.BaseModel, "__init__", build)
    found = {}
    for name, model in inspect.getmembers(comfy.model_base, inspect.isclass):
        if issubclass(model, comfy.model_base.BaseModel):
            needed = [p for p in inspect.signature(model).parameters.values() if p.default is p.empty]
            with pytest.raises(Found) as module:
                model(*[SimpleNamespace(unet_config={}) for p in needed if p.kind is p.POSITIONAL_OR_KEYWORD])
            found[name] = str(module.value)
    return found


def test_every_sampled_model_has_a_plan(diffusion_modules):
    planned = {module for plan in (*PLANS, *ROW_PLANS) for module in plan.models}
    without = {model for model, module in diffusion_modules.items() if module not in planned}
    if version() <= (0, 30):
        assert without == NOT_SAMPLED
    for model in without - NOT_SAMPLED:
        module, _, name = diffusion_modules[model].rpartition(".")
        with pytest.raises(Unsupported, match=f"no sequence-parallel plan for {name}: .* cfg_degree"):
            plan_for(type(name, (torch.nn.Module,), {"__module__": module})())
    assert len(diffusion_modules) > 60
