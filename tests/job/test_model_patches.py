"""Model patches (DiffSynth, Fun, USO, Uni3C): networks of their own that see a model's tokens between its blocks."""

from __future__ import annotations

import functools
import sys

import cloudpickle
import model_patches
import pytest
import torch
from features.scenes import Scene, replace, scene
from sampling import TOLERANCE, WAYS, parallel, relative_error

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEERED = {
    "Z-Image Fun": (model_patches.z_image_fun, model_patches.z_image),
    "Z-Image Fun 2, inpainting": (
        functools.partial(model_patches.z_image_fun, 15, inpaint=True),
        model_patches.z_image,
    ),
    "Qwen DiffSynth": (model_patches.qwen_diffsynth, functools.partial(scene, "qwen_image")),
    "Wan Uni3C": (model_patches.wan_uni3c, functools.partial(scene, "wan")),
    "Flux USO style": (model_patches.uso_style, functools.partial(model_patches.uso_style, False)),
}
ALSO = {
    "Z-Image Fun 2, broken refiner": (
        functools.partial(model_patches.z_image_fun, 15, inpaint=True, broken=True),
        model_patches.z_image,
    ),
    "Qwen DiffSynth, inpainting": (
        functools.partial(model_patches.qwen_diffsynth, mask=True),
        functools.partial(scene, "qwen_image"),
    ),
    "Wan Uni3C, in the middle steps": (functools.partial(model_patches.wan_uni3c, 0.2, 0.7), model_patches.wan_uni3c),
}


# ComfyUI's node for USO knows no batch, neither of conditions nor of pictures.
CELLS = [(name, way) for name in STEERED for way in WAYS if "USO" not in name or way not in ("cfg 2", "data 2")]
CELLS += [(name, "all_gather 2") for name in ALSO]


@functools.cache
def stock(name: str, batch: int = 1) -> tuple[Scene, torch.Tensor]:
    """The steered scene, and what one device makes of it."""
    torch.set_num_threads(1)
    made = (STEERED | ALSO)[name][0]()
    samples = made.latent["samples"].repeat(batch, *(1 for _ in made.latent["samples"].shape[1:]))
    made = replace(made, latent={"samples": samples}, steps=6)
    return made, made.sample()


@functools.cache
def plain(name: str) -> torch.Tensor:
    return replace((STEERED | ALSO)[name][1](), steps=6).sample()


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    for made in (stock, plain, model_patches.video_vae):
        made.cache_clear()


@pytest.mark.parametrize(("name", "way"), CELLS)
def test_a_model_patch_steers_as_in_stock(name, way):
    world, strategy = WAYS[way]
    made, expected = stock(name, 2 if way.startswith("data") else 1)
    assert relative_error(made.sample(functools.partial(parallel, world=world, **strategy)), expected) < TOLERANCE
    assert relative_error(plain(name), expected[:1]) > 1000 * TOLERANCE  # what a worker without it would make


def test_a_picture_that_nobody_has_encoded_yet_is_encoded_by_the_workers_once():
    fresh = replace(model_patches.wan_uni3c(), steps=6)
    ((patch,),) = [fresh.model.model_options["transformer_options"]["patches"]["double_block"]]
    assert patch.prepared_render is None
    samples = fresh.sample(functools.partial(parallel, world=2, ring_degree=2))
    assert patch.prepared_render is not None  # as after a run of stock ComfyUI, for the next
    assert relative_error(samples, stock("Wan Uni3C")[1]) < TOLERANCE
