"""A model with a LoRA that is loaded, unloaded in part and loaded in part again has each layer patched once."""

from __future__ import annotations

import sys

import comfy.sd
import pytest
import torch
from card.test_memory import model_file, with_lora  # noqa: F401 - model_file is a fixture
from comfy.model_patcher import ModelPatcher
from compact_parallel.runtime.comfy.shipping.mapped import MappedPatcher
from compact_parallel.runtime.comfy.shipping.patcher import mapped_weights
from device import DEVICE
from simulated_card import SimulatedCard

pytestmark = pytest.mark.skipif(DEVICE != "cpu" or sys.platform != "linux", reason="needs /proc, and no real cards")
MB = 1 << 20
PARTS = [(30, 0.5), (30, 10), (8, 1), (60, 25)]
"""(MB unloaded, MB for which there is room again)."""


def weights(card, patcher) -> dict[str, torch.Tensor]:
    """The weights of the layers as a call uses them."""
    found = {}
    for name, module in patcher.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.to("cuda")
            for function in getattr(module, "weight_function", ()):
                weight = function(weight)
            found[name] = card.take(weight).float()
    return found


def wrong(kind: type[ModelPatcher], path, unloaded: float, room: float) -> list[str]:
    """The layers that are not as when all is loaded."""
    with SimulatedCard() as card, torch.inference_mode(), mapped_weights():
        plain = comfy.sd.load_diffusion_model(str(path))
        if kind is MappedPatcher:
            MappedPatcher.of(plain)
        patcher = with_lora(plain, 1.0)
        patcher.partially_load(card.device, 1e32)
        expected = weights(card, patcher)
        patcher.partially_unload(torch.device("cpu"), int(unloaded * MB))
        patcher.partially_load(card.device, int(room * MB))
        assert 0 < patcher.loaded_size() < patcher.model_size()
        found = weights(card, patcher)
    return [name for name, x in found.items() if (x - expected[name]).abs().max() > 0.002]


@pytest.mark.parametrize(("unloaded", "room"), PARTS)
def test_each_layer_is_patched_once(model_file, unloaded, room):  # noqa: F811
    assert wrong(MappedPatcher, model_file, unloaded, room) == []


def test_comfyui_alone_patches_some_twice(model_file):  # noqa: F811
    """Negative control: the comparison sees it."""
    assert any(wrong(ModelPatcher, model_file, *part) for part in PARTS)
