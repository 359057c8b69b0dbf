"""What a worker pins of a model that does not fit on its card: copies of weights, and no more than it may."""

from __future__ import annotations

import sys

import comfy.model_management
import comfy.sd
import pytest
import torch
from card.test_memory import model_file  # noqa: F401 - a fixture
from compact_parallel.runtime.comfy.shipping.mapped import MappedPatcher, is_mapped
from compact_parallel.runtime.comfy.shipping.patcher import mapped_weights
from device import DEVICE
from mapped_files import mapped_from_file
from sampling import ksampler
from simulated_card import SimulatedCard

pytestmark = pytest.mark.skipif(DEVICE != "cpu" or sys.platform != "linux", reason="needs /proc, and no real cards")
LATENT = {"samples": torch.zeros((1, 16, 8, 8))}


@pytest.fixture
def loaded(model_file, monkeypatch):  # noqa: F811
    """(card, patcher) of a card that holds 0.7 of the model."""
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])
    monkeypatch.setattr(comfy.model_management, "MAX_PINNED_MEMORY", 20 << 20)
    monkeypatch.setattr(comfy.model_management, "TOTAL_PINNED_MEMORY", 0)
    with SimulatedCard(int(0.7 * model_file.stat().st_size)) as card, torch.inference_mode(), mapped_weights():
        yield card, comfy.sd.load_diffusion_model(str(model_file))


def mapped(patcher) -> int:
    """Bytes of weights that are mapped."""
    return sum(weight.nbytes for weight in patcher.model.parameters() if is_mapped(weight.data))


def test_copies_are_pinned_within_the_budget_and_given_back(loaded):
    card, patcher = loaded
    patcher = MappedPatcher.of(patcher)
    whole = mapped(patcher)
    assert whole > 0.99 * patcher.model_size()
    ksampler(patcher, "flux", steps=1, latent=LATENT)
    assert card.pinned and not any(map(mapped_from_file, card.pinned))
    assert 10 << 20 < sum(card.pinned.values()) <= 20 << 20
    expected = whole - patcher.loaded_size() - sum(card.pinned.values())
    assert mapped(patcher) == pytest.approx(expected, abs=1 << 16)
    pinned = dict(card.pinned)
    patcher.partially_unload(torch.device("cpu"), 30 << 20)  # as when it is parked
    assert card.pinned == pinned
    patcher.detach()
    assert card.pinned == {} and mapped(patcher) == whole


def test_comfyui_alone_would_pin_mappings(loaded, caplog):
    """Negative control."""
    card, patcher = loaded
    ksampler(patcher, "flux", steps=1, latent=LATENT)
    assert "Pin error." in caplog.text and card.pinned == {}
