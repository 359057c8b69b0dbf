"""The node's inputs become the arguments that a pipeline takes; what it does not take, or cannot make, is refused."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import tiny_pipelines
import torch
from compact_parallel.runtime.config import ConfigError
from compact_parallel.runtime.pipelines.inputs import (
    PipelineInputs,
    call_arguments,
    keyword_arguments,
    parse_arguments,
    result_kind,
    to_pictures,
)
from compact_parallel.runtime.pipelines.sizes import check_sizes

IMAGE = torch.linspace(0, 1, 2 * 4 * 6 * 3).reshape(2, 4, 6, 3)


def arguments(name, image=None, **inputs):
    return keyword_arguments(getattr(diffusers, f"{name}Pipeline"), PipelineInputs(**inputs), image)


@pytest.fixture(scope="module")
def pipe():
    """Builds a tiny pipeline, without the disk."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = tiny_pipelines.build(name)
            built[name].set_progress_bar_config(disable=True)
        return built[name]

    return get


def test_nothing_set_is_the_pipelines_own_choice():
    assert arguments("StableDiffusion3") == {"prompt": ""}
    assert arguments("Flux", prompt="a cat", seed=5) == {"prompt": "a cat"}


def test_every_input_has_its_place():
    given = {"prompt": "a", "negative_prompt": "b", "steps": 7, "guidance": 3.0, "width": 64, "height": 32}
    expected = {
        "prompt": "a", "negative_prompt": "b", "num_inference_steps": 7, "guidance_scale": 3.0, "width": 64,
        "height": 32,
    }  # fmt: skip
    assert arguments("StableDiffusion3", **given) == expected
    assert arguments("CogVideoX", **given, frames=9) == expected | {"num_frames": 9}
    assert arguments("Latte", **given, frames=16) == expected | {"video_length": 16}
    assert arguments("LTX", **given, frames=9, fps=25) == expected | {"num_frames": 9, "frame_rate": 25}
    assert arguments("AudioLDM2", prompt="a", seconds=2.5) == {"prompt": "a", "audio_length_in_s": 2.5}
    assert arguments("StableAudio", prompt="a", seconds=2.5) == {"prompt": "a", "audio_end_in_s": 2.5}


def test_guidance_and_frame_rate_of_svd():
    chosen = arguments("StableVideoDiffusion", image=IMAGE[:1], guidance=2.5, fps=6, frames=14)
    assert chosen.pop("image").size == (6, 4)
    assert chosen == {"max_guidance_scale": 2.5, "fps": 6, "num_frames": 14}


def test_guidance_of_distilled_models():
    assert arguments("Flux", guidance=2.0) == {"prompt": "", "guidance_scale": 2.0}
    assert arguments("Flux", guidance=2.0, negative_prompt="b") == {
        "prompt": "", "negative_prompt": "b", "true_cfg_scale": 2.0,
    }  # fmt: skip
    both = {"true_cfg_scale": 4.0, "guidance_scale": 1.5}
    assert arguments("Flux", negative_prompt="b", arguments=both) == {"prompt": "", "negative_prompt": "b"} | both
    assert arguments("QwenImage", guidance=4.0, negative_prompt=" ")["true_cfg_scale"] == 4.0
    for inputs in ({}, {"guidance": 1.0}, {"guidance": 2.0, "arguments": {"true_cfg_scale": 0.5}}):
        with pytest.raises(ConfigError, match="negative_prompt is set, but FluxPipeline ignores it without guidance"):
            arguments("Flux", negative_prompt="b", **inputs)
    with pytest.raises(ConfigError, match="guidance is 4, but QwenImagePipeline ignores it without a negative prompt"):
        arguments("QwenImage", guidance=4.0)


def test_pictures():
    assert [picture.size for picture in arguments("CogVideoXVideoToVideo", image=IMAGE)["video"]] == [(6, 4)] * 2
    assert [picture.size for picture in arguments("CogVideoXImageToVideo", image=IMAGE)["image"]] == [(6, 4)] * 2
    first = np.asarray(arguments("CogVideoXImageToVideo", image=IMAGE[1:])["image"])
    assert np.array_equal(first, (IMAGE[1] * 255).round().byte().numpy())
    assert np.asarray(to_pictures(torch.tensor([-1.0, 2.0, 0.5]).reshape(1, 1, 1, 3))[0]).tolist() == [[[0, 255, 128]]]
    for wrong in (torch.zeros(1, 4, 6, 4), torch.zeros(4, 6, 3)):
        with pytest.raises(ConfigError, match="image has the shape"):
            to_pictures(wrong)


def test_a_missing_image():
    with pytest.raises(ConfigError, match="image is missing, and StableVideoDiffusionPipeline starts from one"):
        arguments("StableVideoDiffusion")


def test_what_only_arguments_can_give_and_what_nothing_can():
    with pytest.raises(ConfigError, match=r"CycleDiffusionPipeline needs source_prompt, .*; add it to arguments"):
        arguments("CycleDiffusion", image=IMAGE)
    assert arguments("CycleDiffusion", image=IMAGE, arguments={"source_prompt": "a"})["source_prompt"] == "a"
    with pytest.raises(ConfigError, match="WanAnimatePipeline needs pose_video, face_video, which no input"):
        arguments("WanAnimate", image=IMAGE)


@pytest.mark.parametrize(
    ("name", "inputs", "wrong"),
    [
        ("StableDiffusion3", {"frames": 9}, "frames"),
        ("StableDiffusion3", {"seconds": 1.0}, "seconds"),
        ("StableDiffusion3", {"fps": 8}, "fps"),
        ("StableDiffusion3", {"image": IMAGE}, "image"),
        ("AudioLDM2", {"width": 64}, "width"),
        ("AudioLDM2", {"height": 64}, "height"),
        ("StableVideoDiffusion", {"image": IMAGE, "prompt": "a"}, "prompt"),
        ("StableVideoDiffusion", {"image": IMAGE, "negative_prompt": "a"}, "negative_prompt"),
    ],
)
def test_an_input_that_a_pipeline_does_not_take(name, inputs, wrong):
    with pytest.raises(
        ConfigError, match=rf"^{wrong} is set, but {name}Pipeline does not take it; .* It takes"
    ) as error:
        arguments(name, **inputs)
    takes = str(error.value).partition(" It takes ")[2].rstrip(".").split(", ")
    assert wrong not in takes and "steps" in takes and "guidance" in takes


def test_arguments_win():
    assert arguments("CogVideoX", steps=7, frames=9, arguments={"num_inference_steps": 3, "use_dynamic_cfg": True}) == {
        "prompt": "", "num_inference_steps": 3, "num_frames": 9, "use_dynamic_cfg": True,
    }  # fmt: skip
    assert arguments("StableDiffusion3", arguments={"guidance_scale": 0.0})["guidance_scale"] == 0.0


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("StableDiffusion3", "nonsense", "does not take; it takes clip_skip, guidance_scale, height, "),
        ("PixArtSigma", "kwargs", "does not take; it takes"),
        ("StableDiffusion3", "self", "does not take; it takes"),
        ("StableDiffusion3", "generator", "the workers set themselves"),
        ("StableDiffusion3", "output_type", "the workers set themselves"),
        ("StableDiffusion3", "return_dict", "the workers set themselves"),
        ("StableDiffusion3", "callback_on_step_end", "the workers set themselves"),
        ("StableDiffusion3", "callback_on_step_end_tensor_inputs", "the workers set themselves"),
        ("AudioLDM2", "callback", "the workers set themselves"),
        ("StableDiffusion3", "latents", "is no JSON value"),
        ("StableDiffusion3", "prompt_embeds", "is no JSON value"),
        ("StableDiffusion3", "ip_adapter_image", "is no JSON value"),
        ("CogVideoXImageToVideo", "image", "is no JSON value"),
    ],
)
def test_arguments_that_may_not_be_set(name, key, reason):
    with pytest.raises(ConfigError, match=rf"^arguments sets {key}, .*{reason}"):
        arguments(name, arguments={key: 1}, image=IMAGE[:1] if "Image" in name else None)


def test_arguments_as_text():
    assert parse_arguments("") == parse_arguments(" {} ") == {}
    assert parse_arguments('{"eta": 0.5, "sigmas": [1, 0.5]}') == {"eta": 0.5, "sigmas": [1, 0.5]}
    for text in ("{", "[1]", "5", "eta=1"):
        with pytest.raises(ConfigError, match=r"^arguments is "):
            parse_arguments(text)


def test_the_json_form():
    inputs = PipelineInputs(prompt="ä", steps=4, guidance=1.5, arguments={"eta": 0.5})
    assert PipelineInputs.from_json(json.loads(json.dumps(inputs.to_json()))) == inputs
    with pytest.raises(ConfigError, match="Sample Pipeline has no input image"):
        PipelineInputs.from_json({"image": 1})


@pytest.mark.parametrize("name", ["seed", "steps", "guidance", "width", "height", "frames", "seconds", "fps"])
def test_negative_numbers(name):
    for value in (-1, float("nan")):
        with pytest.raises(ConfigError, match=rf"^{name} is {value}; it must be 0 or more"):
            PipelineInputs(**{name: value})


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("wan", {"frames": 7}, "frames is 7, but WanPipeline makes 1 frame more than multiples of 4; choose 5 or 9."),
        ("wan", {"frames": 2}, "frames is 2, but .* choose 1 or 5."),
        ("cogvideox", {"frames": 13}, "frames is 13, but .* 1 frame more than multiples of 8; choose 9 or 17."),
        ("latte", {"frames": 3}, "frames is 3, but this LattePipeline was trained for 4; choose 4 or 1."),
        ("wan", {"width": 72}, "width is 72, but WanPipeline makes multiples of 16; choose 64 or 80."),
        ("wan", {"height": 1}, "height is 1, but WanPipeline makes multiples of 16; choose 16 or 32."),
        ("flux", {"height": 120}, "height is 120, but FluxPipeline makes multiples of 16; choose 112 or 128."),
        ("sd3", {"width": 120}, "width is 120, .* multiples of 16"),
        ("cogvideox", {"width": 72}, "width is 72, .* multiples of 16"),
        ("latte", {"width": 72}, "width is 72, .* multiples of 16"),
        ("svd", {"width": 68}, "width is 68, .* multiples of 8; choose 64 or 72."),
        ("pixart", {"width": 68}, "width is 68, .* multiples of 8; choose 64 or 72."),
        ("pixart", {"width": 72, "arguments": {"use_resolution_binning": False}}, "width is 72, .* multiples of 16"),
        ("wan", {"arguments": {"num_frames": 6}}, "frames is 6, but .* choose 5 or 9."),
    ],
)
def test_sizes_that_a_pipeline_cannot_make(name, inputs, message, pipe):
    with pytest.raises(ConfigError, match=f"^{message}"):
        call_arguments(pipe(name), PipelineInputs(**inputs), IMAGE[:1] if name == "svd" else None)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("wan", {"frames": 5, "width": 80}),
        ("wan", {"frames": 1}),
        ("cogvideox", {"frames": 17, "width": 80}),
        ("cogvideox", {"frames": 1}),
        ("svd", {"frames": 3, "width": 72}),
        ("latte", {"frames": 1, "width": 80}),
        ("flux", {"width": 80}),
        ("sd3", {"width": 80}),
        ("pixart", {"width": 80}),
        ("audioldm2", {"seconds": 0.5}),
    ],
)
def test_what_is_allowed_comes_out_as_asked(name, inputs, pipe):
    """The pictures have the size and the number that was asked for."""
    frames = "video_length" if name == "latte" else "num_frames"
    set_by_inputs = {"width": "width", "frames": frames, "seconds": "audio_length_in_s"}
    small = tiny_pipelines.arguments(name) | {"num_inference_steps": 1}
    rest = {
        key: value
        for key, value in small.items()
        if key not in ("image", "prompt", *(set_by_inputs[each] for each in inputs))
    }
    found = call_arguments(pipe(name), PipelineInputs(**inputs, arguments=rest), IMAGE[:1] if name == "svd" else None)
    kind = "np" if name == "audioldm2" else "pt"
    result = pipe(name)(**found, generator=torch.Generator().manual_seed(0), output_type=kind, return_dict=False)[0]
    result = result[0] if isinstance(result, (list, tuple)) else result
    assert result.shape[-1] == (8000 if name == "audioldm2" else inputs.get("width", small.get("width")))
    if "frames" in inputs:
        assert result.shape[-4] == inputs["frames"]


def test_a_size_that_is_refused_does_not_come_out(pipe):
    """Negative control: why frames and sizes are checked."""
    small = tiny_pipelines.arguments("wan") | {"num_inference_steps": 1, "output_type": "pt", "return_dict": False}
    assert pipe("wan")(**small | {"num_frames": 7})[0].shape[1] == 5
    small = tiny_pipelines.arguments("cogvideox") | {
        "num_inference_steps": 1,
        "output_type": "pt",
        "return_dict": False,
    }
    assert pipe("cogvideox")(**small | {"num_frames": 13})[0].shape[1] == 16
    small = tiny_pipelines.arguments("flux") | {"num_inference_steps": 1, "output_type": "pt", "return_dict": False}
    assert pipe("flux")(**small | {"height": 120})[0].shape[-2] == 112


@pytest.mark.parametrize("name", tiny_pipelines.NAMES)
def test_the_tiny_pipelines_take_their_own_arguments(name, pipe):
    small = tiny_pipelines.arguments(name)
    image = IMAGE[:1] if small.pop("image", None) else None
    prompt = small.pop("prompt", "")
    found = call_arguments(pipe(name), PipelineInputs(prompt=prompt, arguments=small), image)
    assert found.items() >= small.items()
    check_sizes(pipe(name), {})


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("image", ["StableDiffusion3", "Flux", "PixArtSigma", "StableDiffusionXL", "Kandinsky5T2I", "HunyuanImage"]),
        ("video", ["Wan", "CogVideoX", "CogVideoXVideoToVideo", "Latte", "StableVideoDiffusion", "LTX", "LTX2"]),
        ("video", ["TextToVideoSD", "AnimateDiff", "Cosmos3Omni", "SanaVideo"]),
        ("audio", ["AudioLDM2", "StableAudio", "MusicLDM", "AceStep"]),
    ],
)
def test_what_comes_out(kind, names):
    assert {name: result_kind(getattr(diffusers, f"{name}Pipeline")) for name in names} == dict.fromkeys(names, kind)


@pytest.mark.parametrize("name", ["KandinskyPrior", "MarigoldDepth", "FluxPriorRedux", "RFD4Proteina", "LLaDA2"])
def test_other_results_are_refused(name):
    with pytest.raises(ConfigError, match=rf"folder: its pipeline is {name}Pipeline, which gives .*; choose one that"):
        result_kind(getattr(diffusers, f"{name}Pipeline"))
