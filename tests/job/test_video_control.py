"""Videos that are steered by their conditions, and residuals for models ComfyUI has no ControlNet for: as in stock."""

from __future__ import annotations

import functools
import sys

import cloudpickle
import model_patches
import pytest
import sampling
import torch
import video_controls
from features.scenes import Scene, replace, scene
from sampling import TOLERANCE, parallel, relative_error
from video_controls import guided

cloudpickle.register_pickle_by_value(sys.modules[__name__])

# {name: (the steered scene, another one that a worker without what steers would make)}.
STEERED = {
    "Wan VACE": (video_controls.vace, functools.partial(video_controls.vace, False)),
    "Wan VACE at strength 0.4": (functools.partial(video_controls.vace, strength=0.4), video_controls.vace),
    "Wan Fun control": (video_controls.fun_control, functools.partial(video_controls.fun_control, False)),
    "Wan camera": (video_controls.camera_control, functools.partial(video_controls.camera_control, False)),
    "Hunyuan Video, reference": (
        video_controls.hunyuan_reference,
        functools.partial(video_controls.hunyuan_reference, False),
    ),
    "Hunyuan Video, residuals": (
        functools.partial(video_controls.residuals, "hunyuan_video"),
        functools.partial(scene, "hunyuan_video"),
    ),
    "Flux2, residuals": (functools.partial(video_controls.residuals, "flux2"), functools.partial(scene, "flux2")),
    "LTX-Video, guides": (functools.partial(guided, 1.0, 1.0), functools.partial(guided, 0.2, 1.0)),
    "LTX-Video, guides of other strengths": (
        functools.partial(guided, 0.5, 2.0),
        functools.partial(guided, 0.5, 1.0),
    ),
    "LTX-Video, guide by region": (functools.partial(guided, 0.5, mask=True), functools.partial(guided, 0.5)),
}
WAYS = {way: how for way, how in sampling.WAYS.items() if way != "data 2"}


@functools.cache
def stock(make) -> tuple[Scene, torch.Tensor]:
    """The scene, and what one device makes of it."""
    torch.set_num_threads(1)
    made = replace(make(), steps=6)
    return made, made.sample()


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    for made in (stock, model_patches.video_vae, video_controls.ltx_vae):
        made.cache_clear()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STEERED)
def test_a_video_is_steered_as_in_stock(name, way):
    world, strategy = WAYS[way]
    steered, other = STEERED[name]
    made, expected = stock(steered)
    assert relative_error(made.sample(functools.partial(parallel, world=world, **strategy)), expected) < TOLERANCE
    assert relative_error(stock(other)[1], expected) > 100 * TOLERANCE
