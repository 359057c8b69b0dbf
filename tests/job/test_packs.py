"""Other people's packs, loaded as ComfyUI loads them: what they do works in the workers, or an error names the pack."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import comfy.k_diffusion.sampling
import comfy.samplers
import comfy_models
import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.comfy.shipping.import_finders import idle_server
from compact_parallel.runtime.comfy.shipping.pickling import ShippingError
from compact_parallel.runtime.config import StepReuseConfig
from sampling import SEED, TOLERANCE, ksampler, model, parallel, pool, relative_error, report

import nodes as stock

PACKS = Path(__file__).resolve().parents[1] / "packs"
ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "ulysses 2": {"ulysses_degree": 2}, "cfg 2": {"cfg_degree": 2}}


@pytest.fixture(scope="module", autouse=True)
def packs():
    """ComfyUI's own node loader has loaded the three packs; afterwards its lists are as they were."""
    import server

    if not hasattr(server.PromptServer, "instance"):
        idle_server(server.PromptServer)
    names = (comfy.samplers.KSAMPLER_NAMES, comfy.samplers.KSampler.SAMPLERS, comfy.samplers.SCHEDULER_NAMES)
    before = [list(given) for given in names]
    for pack in ("style_patch", "own_sampler", "own_loader"):
        assert asyncio.run(stock.load_custom_node(str(PACKS / pack)))
    yield
    for given, kept in zip(names, before):
        given[:] = kept


def node(name: str, **inputs):
    """The first output of a pack's node."""
    kind = stock.NODE_CLASS_MAPPINGS[name]
    return getattr(kind(), kind.FUNCTION)(**inputs)[0]


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_closures_that_share_a_counter_and_options_kept_in_a_module(strategy):
    pictures = []
    for sharpness in (1.5, 0.5):
        patched = node("FixtureSharpenAttention", model=model("flux"), sharpness=sharpness)
        expected = ksampler(patched, "flux")
        assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux"), expected) < TOLERANCE
        pictures.append(expected)
    assert relative_error(*pictures) > 100 * TOLERANCE  # which a worker that did not get the option would not make
    assert relative_error(ksampler(model("flux"), "flux"), pictures[0]) > 100 * TOLERANCE


def test_reference_attention():
    reference = {"samples": torch.randn(1, 16, 60, 60, generator=torch.Generator().manual_seed(1))}
    patched = node("FixtureTintByReference", model=model("flux"), reference=reference, strength=0.5)
    expected = ksampler(patched, "flux")
    assert relative_error(ksampler(model("flux"), "flux"), expected) > 100 * TOLERANCE
    for strategy in ARRANGEMENTS.values():
        assert relative_error(ksampler(parallel(patched, 2, **strategy), "flux"), expected) < TOLERANCE


def test_what_cannot_travel_names_its_pack_and_the_way_out(tmp_path):
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    starts = pool(2).starts
    patched = node("FixtureSharpenAttention", model=model("flux"), sharpness=1.5)
    patched = node("FixtureKeepLog", model=patched, path=str(tmp_path / "log"))
    with pytest.raises(ShippingError) as caught:
        ksampler(parallel(patched, 2, ring_degree=2), "flux")
    assert "custom node pack style_patch" in str(caught.value)
    assert "files that are not opened for reading" in str(caught.value)
    assert "Bypass the node that puts it there" in str(caught.value)
    fallback = parallel(patched, 2, on_unsupported="run on one device", ring_degree=2)
    alone = ksampler(fallback, "flux")
    assert "custom node pack style_patch" in report()["fallbacks"][0]
    assert torch.equal(alone, ksampler(patched, "flux"))
    assert pool(2).starts == starts


def test_a_pack_that_is_not_at_fault_is_not_named():
    patched = node("FixtureSharpenAttention", model=model("flux"), sharpness=1.5)
    patched.model_options["transformer_options"]["lock"] = threading.Lock()
    with pytest.raises(ShippingError) as caught:
        ksampler(parallel(patched, 2, ring_degree=2), "flux")
    assert "lock" in str(caught.value) and "custom node pack" not in str(caught.value)


@torch.inference_mode()
def with_own_sampler(patcher, scheduler="fixture_cosine", steps=4):
    latent = {"samples": comfy_models.latent("flux")}
    conds = comfy_models.conditioning(1), comfy_models.conditioning(2)
    out = stock.KSampler().sample(patcher, SEED, steps, 3.0, "fixture_midpoint", scheduler, *conds, latent)
    return out[0]["samples"]


@pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_a_sampler_and_a_scheduler_of_a_pack(strategy):
    expected = with_own_sampler(model("flux"))
    assert relative_error(with_own_sampler(parallel(model("flux"), 2, **strategy)), expected) < TOLERANCE
    assert relative_error(with_own_sampler(model("flux"), "simple"), expected) > 100 * TOLERANCE
    assert relative_error(ksampler(model("flux"), "flux", "heun"), expected) > 100 * TOLERANCE


def test_step_parallelism_runs_an_unknown_sampler_serially_and_says_so():
    expected = with_own_sampler(model("flux"), steps=12)
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2)
    samples = with_own_sampler(parallel(model("flux"), 2, step_reuse=reuse, step_degree=2), steps=12)
    assert relative_error(samples, expected) < TOLERANCE
    assert any("fixture_midpoint" in warning for warning in report()["warnings"])


@torch.inference_mode()
def denoised(patcher, cfg=3.0):
    conds = comfy_models.conditioning(1), comfy_models.conditioning(2)
    latent = {"samples": torch.zeros(1, 4, 16, 12)}
    return stock.KSampler().sample(patcher, SEED, 4, cfg, "euler", "simple", *conds, latent)[0]["samples"]


def test_a_model_of_a_packs_own_loader_and_class():
    first, second = (node("FixtureLoadTinyDenoiser", width=512, text_width=48, seed=seed) for seed in (0, 1))
    expected = denoised(first)
    assert relative_error(denoised(parallel(first, 2, cfg_degree=2)), expected) < TOLERANCE
    other = denoised(second)
    assert relative_error(denoised(parallel(second, 2, cfg_degree=2)), other) < TOLERANCE
    assert relative_error(other, expected) > 100 * TOLERANCE
    assert relative_error(denoised(parallel(first, 2, cfg_degree=2)), expected) < TOLERANCE  # after a stock run, too


@pytest.mark.parametrize("strategy", [{"ulysses_degree": 2}, {"ring_degree": 2}], ids=str)
def test_such_a_model_has_no_plan_and_says_what_it_can_do(strategy):
    loaded = node("FixtureLoadTinyDenoiser", width=512, text_width=48, seed=0)
    sentence = r"no sequence-parallel plan for TinyDenoiser: .*cfg_degree 2.*data_degree.*step_degree"
    with pytest.raises(Unsupported, match=sentence):
        denoised(parallel(loaded, 2, **strategy))
    fallback = parallel(loaded, 2, on_unsupported="run on one device", **strategy)
    assert torch.equal(denoised(fallback), denoised(loaded))
    (reason,) = report()["fallbacks"]
    assert re.search(sentence, reason)


def test_auto_gives_such_a_model_its_cfg_and_nothing_else():
    loaded = node("FixtureLoadTinyDenoiser", width=512, text_width=48, seed=0)
    expected = denoised(loaded)
    assert relative_error(denoised(parallel(loaded, 2)), expected) < TOLERANCE
    assert report()["workers"] == 2
    chosen = report()["strategy"]
    assert (chosen["cfg_degree"], chosen["ulysses_degree"], chosen["ring_degree"]) == (2, 1, 1)
    at_cfg_1 = denoised(loaded, cfg=1.0)
    assert torch.equal(denoised(parallel(loaded, 2, on_unsupported="run on one device"), cfg=1.0), at_cfg_1)
    assert "no sequence-parallel plan for TinyDenoiser" in report()["fallbacks"][0]
    assert relative_error(at_cfg_1, expected) > 100 * TOLERANCE
