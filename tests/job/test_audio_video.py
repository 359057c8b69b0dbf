"""Video and sound in one latent (LTX-2), shared in every way: as in stock, picture and sound."""

from __future__ import annotations

import functools
import re

import audio_video
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
import video_controls
from features.scenes import Scene, replace
from sampling import TOLERANCE, WAYS, parallel, relative_error, report

SCENES = {
    name: getattr(audio_video, name)
    for name in ("plain", "inpainting", "first_frames", "guides", "lora", "reference_sound")
}

# ComfyUI's node for guides knows no batch.
CELLS = [(name, way) for name in SCENES for way in WAYS if (name, way) != ("guides", "data 2")]
# That no guess was accepted, with "step 2", is what was asked for.
UNSHARED = re.compile("did nothing(?! in this run: no guess)").search


@functools.cache
def stock(name: str, batch: int = 1) -> tuple[Scene, tuple[torch.Tensor, ...]]:
    """The scene, and what one device makes of it: picture and sound."""
    torch.set_num_threads(1)
    made = replace(SCENES[name](batch), steps=6)
    return made, made.sample().unbind()


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    for made in (stock, audio_video.model, video_controls.ltx_vae):
        made.cache_clear()


@pytest.mark.parametrize(("name", "way"), CELLS)
def test_picture_and_sound_are_those_of_stock(name, way):
    world, strategy = WAYS[way]
    made, expected = stock(name, 2 if way == "data 2" else 1)
    samples = made.sample(functools.partial(parallel, world=world, **strategy)).unbind()
    assert [x.shape for x in samples] == [x.shape for x in expected]
    assert max(map(relative_error, samples, expected)) < TOLERANCE
    assert report()["workers"] == world and not any(map(UNSHARED, report()["warnings"]))


@pytest.mark.parametrize("name", [name for name in SCENES if name != "plain"])
def test_what_was_asked_for_changes_picture_and_sound(name):
    for x, other in zip(stock(name)[1], stock("plain")[1]):
        assert x.shape != other.shape or relative_error(other, x) > 100 * TOLERANCE


@torch.inference_mode()
def denoised(patcher) -> tuple[torch.Tensor, ...]:
    """The second output of SamplerCustomAdvanced: what the last preview showed."""
    scene = stock("plain")[0]
    result = custom.SamplerCustomAdvanced.execute(
        custom.RandomNoise.execute(5)[0],
        custom.CFGGuider.execute(patcher, scene.positive, scene.negative, 3.0)[0],
        custom.KSamplerSelect.execute("euler")[0],
        custom.BasicScheduler.execute(patcher, "simple", 4, 1.0)[0].mul(0.9),
        scene.latent,
    )
    return result[1]["samples"].unbind()


def test_previews_show_picture_and_sound():
    expected, samples = denoised(audio_video.model()), denoised(parallel(audio_video.model(), 2, ring_degree=2))
    assert [x.shape[1:] for x in samples] == [audio_video.VIDEO, audio_video.SOUND]
    assert max(map(relative_error, samples, expected)) < TOLERANCE
