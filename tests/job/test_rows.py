"""Stable Diffusion by rows, through the stock loader, sampler and nodes, on pools of real workers."""

from __future__ import annotations

import functools
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import comfy.samplers
import comfy.sd
import comfy_extras.nodes_freelunch
import comfy_extras.nodes_model_downscale
import comfy_extras.nodes_pag
import comfy_extras.nodes_sag
import comfy_unet
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from compact_parallel.runtime.comfy.wrappers.tokens import NOT_COMPILED
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.pool.errors import JobFailed
from job_facts import degrees_alone, degrees_for
from sampling import SEED, TOLERANCE, parallel, relative_error, report

import nodes as stock

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

_FOLDER = tempfile.TemporaryDirectory(prefix="compact-parallel-tests-")  # goes with this process
ARRANGEMENTS = {
    "rows 2": (2, {"ring_degree": 2}),
    "rows 2, ring": (2, {"ring_degree": 2, "ring_exchange": "ring"}),
    "rows 2, heads": (2, {"ulysses_degree": 2}),
    "rows 3": (3, {"ring_degree": 3}),
    "cfg 2 x rows 2": (4, {"cfg_degree": 2, "ring_degree": 2}),
}


@functools.cache
def model():
    """The MODEL from UNETLoader's loader function; the file is written once per test session."""
    torch.set_num_threads(1)
    return comfy_unet.load(comfy_unet.save(Path(_FOLDER.name) / "sd.safetensors"))


@torch.inference_mode()
def ksampler(patcher, *, cfg=3.0, batch=1, steps=3):
    """KSampler's samples."""
    conditions = comfy_unet.conditioning(1), comfy_unet.conditioning(2)
    latent = comfy_unet.latent(batch)
    return stock.KSampler().sample(patcher, SEED, steps, cfg, "euler", "simple", *conditions, latent)[0]["samples"]


def unchanged(patcher):
    return patcher


def free_u(patcher):
    """FreeU acts where channels are twice those of the highest resolution. None are here, so it is told of half."""
    config = SimpleNamespace(unet_config={"model_channels": 160})
    narrow = SimpleNamespace(model=SimpleNamespace(model_config=config), clone=patcher.clone)
    return comfy_extras.nodes_freelunch.FreeU_V2.execute(narrow, 1.3, 1.4, 0.9, 0.2)[0]


def perturbed_attention(patcher):
    return comfy_extras.nodes_pag.PerturbedAttentionGuidance.execute(patcher, 3.0)[0]


def self_attention_guidance(patcher):
    return comfy_extras.nodes_sag.SelfAttentionGuidance.execute(patcher, 0.5, 2.0)[0]


def shrink(patcher):
    node = comfy_extras.nodes_model_downscale.PatchModelAddDownscale
    return node.execute(patcher, 1, 2.0, 0.0, 0.7, True, "bicubic", "bicubic")[0]


def patched_unknown(patcher):
    patcher.set_model_patch(print, "another_patch")
    return patcher


def lora_weights():
    """A random LoRA on an attention and a convolution."""
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for layer in ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", "output_blocks.0.0.in_layers.2"):
        shape = model().model.diffusion_model.get_submodule(layer).weight.shape
        one = (1,) * len(shape[2:])
        for name, size in (("up", (shape[0], 4, *one)), ("down", (4, *shape[1:]))):
            weights[f"diffusion_model.{layer}.lora_{name}.weight"] = 0.2 * torch.randn(size, generator=generator)
    return weights


def lora(patcher):
    return comfy.sd.load_lora_for_models(patcher, None, lora_weights(), 1.0, 0)[0]


def lora_bypass(patcher):
    return comfy.sd.load_bypass_lora_for_models(patcher, None, lora_weights(), 1.0, 0)[0]


@functools.cache
def expected(change=unchanged, **choices):
    """What stock ComfyUI gives, in this process on one thread."""
    return ksampler(change(model().clone()), **choices)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_every_arrangement_gives_the_stock_result(arrangement):
    world, strategy = ARRANGEMENTS[arrangement]
    assert relative_error(ksampler(parallel(model(), world, **strategy)), expected()) < TOLERANCE
    assert report()["workers"] == world
    assert report()["bytes_sent"] > 0
    assert report()["warnings"] == []


@pytest.mark.parametrize("world", (2, 3))
def test_auto_splits_rows_where_one_condition_is_evaluated(world):
    assert relative_error(ksampler(parallel(model(), world), cfg=1.0), expected(cfg=1.0)) < TOLERANCE
    assert (report()["strategy"]["ring_degree"], report()["strategy"]["cfg_degree"]) == (world, 1)


def test_auto_and_calls_alone_split_rows_along_one_axis():
    guider = comfy.samplers.CFGGuider(model())
    guider.set_conds(comfy_unet.conditioning(1), comfy_unet.conditioning(2))
    guider.conds = guider.original_conds
    guider.set_cfg(1.0)
    noise = comfy_unet.latent()["samples"]
    assert degrees_for(ParallelConfig(), 4, guider, noise) == Degrees(ring=4)  # 8 heads would divide, too
    guider.set_cfg(3.0)
    assert degrees_for(ParallelConfig(), 3, guider, noise) == Degrees(ring=3)
    assert degrees_for(ParallelConfig(), 4, guider, noise) == Degrees(cfg=2, ring=2)
    guider.set_cfg(1.0)
    assert degrees_for(ParallelConfig(), 8, guider, noise) == Degrees(ring=7)  # it has no more rows
    for sharing in ("ring", "ulysses"):
        degrees = Degrees(step=2, **{sharing: 2})
        assert degrees_alone(degrees, guider, noise) == degrees


def test_a_batch_is_split_in_all_its_pictures():
    samples = ksampler(parallel(model(), 2, ring_degree=2), batch=2)
    assert relative_error(samples, expected(batch=2)) < TOLERANCE


@pytest.mark.parametrize("change", (free_u, perturbed_attention, self_attention_guidance, lora, lora_bypass))
def test_what_a_workflow_does_to_the_model_is_exact(change):
    result = expected(change)
    assert relative_error(result, expected()) > 100 * TOLERANCE  # it matters
    assert relative_error(ksampler(parallel(change(model().clone()), 2, ring_degree=2)), result) < TOLERANCE


def test_a_compiled_model_runs_as_it_is_and_says_so():
    compiled = model().clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    assert relative_error(ksampler(parallel(compiled, 2, ring_degree=2)), expected()) < TOLERANCE
    assert report()["warnings"] == [NOT_COMPILED]
    assert relative_error(ksampler(parallel(model(), 2, ring_degree=2)), expected()) < TOLERANCE
    assert report()["warnings"] == []


def test_deep_shrink_is_exact():
    assert relative_error(expected(shrink), expected()) > 100 * TOLERANCE
    for degrees in ({"ring_degree": 2}, {"cfg_degree": 2}):
        assert relative_error(ksampler(parallel(shrink(model().clone()), 2, **degrees)), expected(shrink)) < TOLERANCE


def test_a_patch_nobody_knows_is_refused_or_runs_on_one_device():
    with pytest.raises(JobFailed, match="of the kind another_patch; set on_unsupported of Parallel Model") as caught:
        ksampler(parallel(patched_unknown(model().clone()), 2, ring_degree=2))
    assert "Traceback" not in str(caught.value)
    fallback = parallel(patched_unknown(model().clone()), 2, on_unsupported="run on one device", ring_degree=2)
    assert torch.equal(ksampler(fallback), expected())


def test_displaced_keys_are_close_and_the_next_run_is_exact():
    displaced = parallel(model(), 2, ring_degree=2, ring_exchange="displaced")
    assert 0.02 > relative_error(ksampler(displaced, steps=6), expected(steps=6)) > TOLERANCE
    assert report()["hidden_seconds"] > 0
    assert relative_error(ksampler(parallel(model(), 2, ring_degree=2)), expected()) < TOLERANCE


def test_compressed_keys_are_close():
    ksampler(parallel(model(), 2, ring_degree=2), steps=6)
    raw = report()["bytes_sent"]
    compression = CompressionConfig(mode="codec", codec="4bit")
    samples = ksampler(parallel(model(), 2, compression, ring_degree=2), steps=6)
    assert 0.01 > relative_error(samples, expected(steps=6)) > TOLERANCE
    assert report()["bytes_sent"] < 0.6 * raw
    assert 0 < report()["max_relative_error"] < 0.2


def without_halos(executor, *args, **kwargs):
    """Runs in a worker: the rows of every rank end in zeros."""
    from unittest import mock

    from torch.nn.functional import pad

    def zeros(self, x, rows, needs):
        (first, last), (start, end) = rows.rows(self.axis.index), needs[self.axis.index]
        return pad(x, (0, 0, first - start, end - last))

    with mock.patch("compact_parallel.runtime.sharding.rows.row_exchange.RowExchange.with_halos", zeros):
        return executor(*args, **kwargs)


def test_without_halos_the_result_is_wrong():
    patcher = parallel(model(), 2, ring_degree=2)
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, without_halos)
    assert relative_error(ksampler(patcher), expected()) > 100 * TOLERANCE
