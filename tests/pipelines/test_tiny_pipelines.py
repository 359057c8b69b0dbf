"""The tiny pipelines are ones that diffusers' own loader takes, and every part of their denoiser matters."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import diffusers
import pytest
import tiny_pipelines
import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipelines")


def load(name, folder):
    pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_pipelines.saved(name, folder), use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def run(pipe, name, **changes):
    """The latents of two steps and what the denoiser was called with first."""
    calls = []
    hook = denoiser_of(pipe).register_forward_pre_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    wanted = tiny_pipelines.arguments(name) | {"num_inference_steps": 2, "output_type": "latent"} | changes
    latents = pipe(**wanted, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    hook.remove()
    return torch.as_tensor(latents), calls[0]


def evaluate(denoiser, call):
    with torch.no_grad():
        return denoiser(*call[0], **call[1] | {"return_dict": False})[0]


def blocks(denoiser):
    """Every block of every list of blocks, the lists inside UNet blocks as well, but no layers of a feed-forward."""
    for name, module in denoiser.named_modules():
        if isinstance(module, torch.nn.ModuleList) and not name.endswith(("net", "to_out")):
            yield from ((f"{name}.{place}", block) for place, block in enumerate(module))


def idle_blocks(denoiser, call):
    """The blocks whose parameters may be halved without changing the output by more than 1%."""
    output = evaluate(denoiser, call)
    idle = []
    for place, block in blocks(denoiser):
        kept = {key: value.clone() for key, value in block.state_dict().items()}
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.mul_(0.5)
        if (evaluate(denoiser, call) - output).std() < 0.01 * output.std():
            idle.append(place)
        block.load_state_dict(kept)
    return idle


@pytest.mark.parametrize("name", tiny_pipelines.NAMES)
def test_it_loads_and_runs_and_every_block_and_the_prompt_matter(name, folder):
    pipe = load(name, folder)
    latents, call = run(pipe, name)
    assert latents.isfinite().all()
    assert 0.1 < evaluate(denoiser_of(pipe), call).std() < 10
    assert idle_blocks(denoiser_of(pipe), call) == []
    other = {"image": tiny_pipelines.picture(64, 128).rotate(180)} if name == "svd" else {"prompt": "two dogs"}
    assert (run(pipe, name, **other)[0] - latents).std() > 0.01 * latents.std()


def test_a_block_that_does_not_matter_is_found(folder):
    pipe = load("pixart", folder)
    with torch.no_grad():
        for parameter in pipe.transformer.transformer_blocks[1].parameters():
            parameter.zero_()
    _, call = run(pipe, "pixart")
    assert idle_blocks(pipe.transformer, call) == ["transformer_blocks.1"]


def test_two_processes_may_make_the_same_pipeline(folder):
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        both = list(pool.map(tiny_pipelines.saved, ["pixart"] * 2, [folder / "at_once"] * 2))
    assert both == [folder / "at_once" / "pixart"] * 2
    assert os.listdir(folder / "at_once") == ["pixart"]
    first, _ = run(load("pixart", folder), "pixart")
    again, _ = run(load("pixart", folder / "at_once"), "pixart")
    assert torch.equal(first, again)
