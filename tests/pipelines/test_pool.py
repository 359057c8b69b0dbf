"""Pipelines on a real pool of two workers: exact where nothing is reused, near where Step Reuse looks ahead."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from compact_parallel.runtime.comfy.run.pipeline_run import PipelineRun
from compact_parallel.runtime.config import (
    CompressionConfig,
    ParallelConfig,
    PoolConfig,
    StepReuseConfig,
    StrategyConfig,
    XditConfig,
)
from compact_parallel.runtime.pipelines.inputs import PipelineInputs
from compact_parallel.runtime.pipelines.job import PipelineChoice
from compact_parallel.runtime.pipelines.outputs import result_of
from compact_parallel.runtime.pipelines.views import view_of
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.runtime.report.history import runs
from device import DEVICE, EXACT, devices
from PIL import Image
from tiny_pipelines import NAMES, arguments, saved

POOL = PoolConfig(devices=",".join(devices(2)), name="pipelines")
NO_STAGES = XditConfig()
STEPS = 8
SEED = 3
OF_THE_NODE = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "num_frames": "frames",
    "video_length": "frames",
    "audio_length_in_s": "seconds",
    "fps": "fps",
}
SPLITS_TOKENS = ("flux", "sd3", "pixart", "cogvideox", "latte", "wan")
ONE_BATCH = ("audioldm2", "latte", "cogvideox", "cogvideox_dpm", "cogvideox_i2v", "svd", "sd3", "pixart")
"""Those that evaluate both conditions of classifier-free guidance as one batch."""


def manual(**degrees):
    return StrategyConfig(mode="manual", **degrees)


def look_ahead(calls, tolerance):
    return StepReuseConfig(mode="look_ahead", look_ahead=calls, tolerance=tolerance)


def asked(name, steps=STEPS, scheduler="", **changes):
    """The node's inputs for a tiny pipeline, and its image."""
    given = {**arguments(name), **changes}
    given.pop("num_inference_steps")
    image = given.pop("image", None)
    own = {OF_THE_NODE[key]: given.pop(key) for key in list(given) if key in OF_THE_NODE}
    pixels = torch.from_numpy(np.array(image)).float().div(255)[None] if isinstance(image, Image.Image) else None
    inputs = PipelineInputs(seed=SEED, steps=steps, scheduler=scheduler, arguments=given, **own)
    return inputs, pixels


def sampled(
    folder, name, strategy, *, engine="diffusers", xdit=NO_STAGES, changes=None, scheduler="", pool=POOL, **config
):
    """The result of a run on the pool, and its report."""
    choice = PipelineChoice(str(saved(name, folder)), "float32", engine, xdit)
    run = PipelineRun(choice, ParallelConfig(pool=pool, strategy=strategy, **config))
    return run.sample(*asked(name, scheduler=scheduler, **(changes or {}))), runs().latest()


@pytest.fixture(scope="module")
def alone(shared_tiny_pipelines):
    """alone(name): what the pipeline makes by itself, as the pool gives it."""
    made = {}

    def of(name, steps=STEPS, by=lambda pipe, given: pipe(**given), **changes):
        key = name, steps, by, str(changes)
        if key not in made:
            pipe = diffusers.DiffusionPipeline.from_pretrained(saved(name, shared_tiny_pipelines))
            pipe.set_progress_bar_config(disable=True)
            pipe.to(DEVICE)
            torch.manual_seed(SEED)
            given = {**arguments(name), **changes, "num_inference_steps": steps, "output_type": "pt"}
            given["generator"] = torch.Generator().manual_seed(SEED)
            made[key] = result_of(pipe, by(pipe, given), 0).values
        return made[key]

    yield of
    pools().find(POOL.name).stop()


def difference(values, expected):
    """The largest difference, relative to the largest value: the tiny vocoder hardly makes a sound."""
    assert values.shape == expected.shape
    return float((values - expected).abs().max() / expected.abs().max())


def rms(values, expected):
    return float((values - expected).norm() / expected.norm())


def one_row_at_a_time(pipe, given):
    """What the pipeline makes if its denoiser evaluates every entry of a batch by itself, in one process."""
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    shared = {"image_rotary_emb", "img_ids", "txt_ids"}

    def rows(original, *args, **kwargs):
        count = (args or (kwargs.get("hidden_states"),))[0].shape[0]

        def row(value, at):
            if isinstance(value, dict):
                return {key: row(each, at) for key, each in value.items()}
            whole = isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == count
            return value[at : at + 1] if whole else value

        outputs = []
        for at in range(count):
            own = {key: each if key in shared else row(each, at) for key, each in kwargs.items()}
            outputs.append(original(*(row(each, at) for each in args), **own)[0])
        return (torch.cat(outputs),)

    vars(pipe)["unet" if hasattr(pipe, "unet") else "transformer"] = view_of(denoiser, __call__=rows)
    return pipe(**given)


@pytest.mark.parametrize("name", NAMES)
def test_auto_is_exact_and_shares(shared_tiny_pipelines, alone, name):
    result, report = sampled(shared_tiny_pipelines, name, StrategyConfig())
    # A scheduler that starts from nothing but noise lets rounding grow: as much as in one process, row by row.
    rounding = difference(alone(name, by=one_row_at_a_time), alone(name)) if name in ONE_BATCH else 0.0
    assert difference(result.values, alone(name)) < max(EXACT, 2 * rounding) < 1e-3
    assert report["workers"] == 2 and report["calls"] == STEPS and report["bytes_sent"] > 0
    assert report["warnings"] == []
    degree = "cfg_degree" if name in ONE_BATCH else "ring_degree"
    assert report["strategy"][degree] == 2
    # Negative control: another seed gives another result.
    other = alone(name, guidance_scale=1.5) if name not in ("svd",) else alone(name, max_guidance_scale=1.5)
    assert difference(result.values, other) > 1e-3


@pytest.mark.parametrize("degree", ["ulysses_degree", "ring_degree"])
@pytest.mark.parametrize("name", SPLITS_TOKENS)
def test_tokens_are_split_exactly(shared_tiny_pipelines, alone, name, degree):
    result, report = sampled(shared_tiny_pipelines, name, manual(**{degree: 2}))
    assert difference(result.values, alone(name)) < EXACT
    assert report["strategy"][degree] == 2 and report["bytes_sent"] > 0


def test_several_pictures_are_divided(shared_tiny_pipelines, alone):
    changes = {"num_images_per_prompt": 2}
    result, report = sampled(shared_tiny_pipelines, "flux", manual(data_degree=2), changes=changes)
    expected = alone("flux", **changes)
    assert difference(result.values, expected) < EXACT and len(expected) == 2
    assert float((expected[0] - expected[1]).abs().max()) > 1e-3
    assert report["strategy"]["data_degree"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_look_ahead_of_two_is_near(shared_tiny_pipelines, alone, name):
    result, report = sampled(shared_tiny_pipelines, name, manual(step_degree=2), step_reuse=look_ahead(2, 0.0))
    assert 1e-6 < rms(result.values, alone(name)) < 0.5
    assert report["accepted"] == [1, 1, 1, 2, 2, 1] and report["rounds"] == 6
    assert report["evaluations_per_rank"][0] < STEPS * (2 if name == "wan" else 1)


def test_a_look_ahead_whose_guesses_are_rejected_is_exact(shared_tiny_pipelines, alone):
    reuse = look_ahead(2, 1e-9)
    result, report = sampled(shared_tiny_pipelines, "cogvideox", manual(step_degree=2), step_reuse=reuse)
    assert difference(result.values, alone("cogvideox")) < EXACT
    assert set(report["accepted"]) == {1}


def test_compressed_tokens_are_near_and_smaller(shared_tiny_pipelines, alone):
    exact, plain = sampled(shared_tiny_pipelines, "sd3", manual(ring_degree=2))
    two_bit = CompressionConfig(mode="codec", codec="2bit")
    result, report = sampled(shared_tiny_pipelines, "sd3", manual(ring_degree=2), compression=two_bit)
    assert 1e-5 < difference(result.values, exact.values) < 0.3
    assert report["bytes_sent"] < 0.6 * plain["bytes_sent"] and report["max_relative_error"] > 0


def test_another_scheduler(shared_tiny_pipelines, alone):
    """The scheduler that the pipeline came with is as before in the next run."""
    exact = alone("pixart")
    other, _ = sampled(shared_tiny_pipelines, "pixart", manual(cfg_degree=2), scheduler="DDIMScheduler")
    again, _ = sampled(shared_tiny_pipelines, "pixart", manual(cfg_degree=2))

    def by_ddim(pipe, given):
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        return pipe(**given)

    assert difference(other.values, alone("pixart", by=by_ddim)) < EXACT
    assert difference(again.values, exact) < EXACT < difference(other.values, exact)


def test_steps_and_conditions_are_shared_by_four_workers(shared_tiny_pipelines, alone):
    four = PoolConfig(devices=",".join(devices(4)), name="four")
    strategy = manual(step_degree=2, cfg_degree=2)
    try:
        near, report = sampled(shared_tiny_pipelines, "latte", strategy, pool=four, step_reuse=look_ahead(2, 0.0))
        exact, _ = sampled(shared_tiny_pipelines, "latte", strategy, pool=four, step_reuse=look_ahead(2, 1e-9))
    finally:
        pools().find("four").stop()
    assert report["accepted"] == [1, 1, 1, 2, 2, 1] and report["workers"] == 4
    assert 1e-6 < rms(near.values, alone("latte")) < 0.5
    assert difference(exact.values, alone("latte")) < EXACT


@pytest.mark.parametrize(
    ("name", "strategy", "xdit"),
    [
        ("flux", manual(ulysses_degree=2), XditConfig()),
        ("pixart", manual(cfg_degree=2), XditConfig()),
        ("pixart", manual(), XditConfig(pipefusion_degree=2, warmup_steps=STEPS)),
    ],
    ids=["ulysses", "cfg", "synchronous PipeFusion"],
)
def test_xdit_is_exact(shared_tiny_pipelines, alone, name, strategy, xdit):
    result, _ = sampled(shared_tiny_pipelines, name, strategy, engine="xdit", xdit=xdit)
    assert difference(result.values, alone(name)) < EXACT
