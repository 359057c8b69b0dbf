"""A pipeline is loaded from its folder alone, with every weight, or not at all."""

from __future__ import annotations

import importlib
import json
import shutil
import socket
import sys

import diffusers
import pytest
import tiny_parts as parts
import tiny_pipelines
import torch
import transformers
from compact_parallel.runtime.config import ConfigError
from compact_parallel.runtime.pipelines.loading import load
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def folder(originals, tmp_path):
    """Copies the folder of a tiny pipeline, so that a test may change it."""
    return lambda name: shutil.copytree(tiny_pipelines.saved(name, originals), tmp_path / name)


@pytest.fixture
def attempts(monkeypatch):
    """The addresses that somebody tried to reach; none is reached."""
    seen = []

    def refuse(*arguments, **_):
        seen.append(arguments)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return seen


def latents(pipe, name):
    pipe.set_progress_bar_config(disable=True)
    wanted = tiny_pipelines.arguments(name) | {"num_inference_steps": 2, "output_type": "latent"}
    return torch.as_tensor(pipe(**wanted, generator=torch.Generator().manual_seed(0), return_dict=False)[0])


def edit(file, change):
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def change_index(folder, **changes):
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))


@pytest.mark.parametrize("name", tiny_pipelines.NAMES)
def test_the_same_pipeline_as_by_diffusers_and_nothing_is_fetched(name, originals, attempts):
    folder = tiny_pipelines.saved(name, originals)
    pipe, other = load(folder, "auto", CPU), diffusers.DiffusionPipeline.from_pretrained(str(folder))
    assert attempts == []
    assert type(pipe) is type(other) and dict(pipe.config) == dict(other.config)
    assert {part: type(each) for part, each in pipe.components.items()} == {
        part: type(each) for part, each in other.components.items()
    }
    assert not any(each.training for each in pipe.components.values() if isinstance(each, torch.nn.Module))
    assert torch.equal(latents(pipe, name), latents(other, name))


def test_an_attempt_to_fetch_is_seen(attempts):
    with pytest.raises(Exception, match="no network in this test"):
        importlib.import_module("urllib.request").urlopen("https://huggingface.co/api/models", timeout=5)
    assert attempts


def without(key):
    return lambda weights: weights.pop(key)


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("pixart", "transformer/diffusion_pytorch_model", "transformer_blocks.1.attn1.to_q.weight"),
        ("pixart", "vae/diffusion_pytorch_model", "decoder.conv_out.bias"),
        ("pixart", "text_encoder/model", "encoder.block.1.layer.0.SelfAttention.o.weight"),
        ("cogvideox_i2v", "transformer/diffusion_pytorch_model", "patch_embed.pos_embedding"),
        ("audioldm2", "text_encoder/model", "audio_model.audio_encoder.batch_norm.running_mean"),
    ],
)
def test_a_missing_weight_is_an_error(name, file, key, folder):
    place = folder(name)
    edit(place / f"{file}.safetensors", without(key))
    diffusers.DiffusionPipeline.from_pretrained(str(place))  # which is content
    with pytest.raises(ConfigError, match=rf"{file.split('/')[0]} lacks 1 of the weights of \w+, such as .*{key};"):
        load(place, "auto", CPU)


@pytest.mark.parametrize(
    ("file", "key", "name"),
    [
        ("transformer/diffusion_pytorch_model", "proj_out.bias", "PixArtTransformer2DModel"),
        ("text_encoder/model", "encoder.final_layer_norm.weight", "T5EncoderModel"),
    ],
)
def test_a_weight_of_another_shape_is_an_error(file, key, name, folder):
    place = folder("pixart")
    edit(place / f"{file}.safetensors", lambda weights: weights.update({key: torch.zeros(3)}))
    with pytest.raises(ConfigError, match=rf"{file.split('/')[0]} does not fit {name} \(.*; fetch the pipeline again"):
        load(place, "auto", CPU)


def test_a_tokenizer_without_its_words_is_an_error(folder):
    place = folder("sd3")
    (place / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer does not fit CLIPTokenizer \("):
        load(place, "auto", CPU)


def test_weights_that_are_left_over_do_not_matter(folder, originals):
    place = folder("pixart")
    file = place / "transformer" / "diffusion_pytorch_model.safetensors"
    edit(file, lambda weights: weights.update({"nobody": torch.zeros(3)}))
    whole = load(tiny_pipelines.saved("pixart", originals), "auto", CPU)
    assert torch.equal(latents(load(place, "auto", CPU), "pixart"), latents(whole, "pixart"))


def test_a_published_audioldm2_is_mended(folder, originals):
    """Its folder names GPT2Model, and its weights have the names that this class gives them."""
    place = folder("audioldm2")
    change_index(place, language_model=["transformers", "GPT2Model"])
    file = place / "language_model" / "model.safetensors"
    save_file({name.removeprefix("transformer."): weight for name, weight in load_file(file).items()}, file)
    whole = load(tiny_pipelines.saved("audioldm2", originals), "auto", CPU)
    assert torch.equal(latents(load(place, "auto", CPU), "audioldm2"), latents(whole, "audioldm2"))
    edit(file, without("h.1.attn.c_attn.weight"))
    with pytest.raises(ConfigError, match="language_model lacks 1 of the weights of GPT2LMHeadModel"):
        load(place, "auto", CPU)


@pytest.mark.parametrize("checked", [False, True])
def test_a_folder_of_stable_diffusion(checked, tmp_path):
    """Components that are left out, a setting of the pipeline, a class under its old name, one of a pipeline's own."""
    vision, text = parts.clip_vision_model().config.to_dict(), parts.clip_config().to_dict()
    checker = StableDiffusionSafetyChecker(transformers.CLIPConfig(text_config=text, vision_config=vision))
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32), layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=parts.WIDTH, sample_size=8,
    )  # fmt: skip
    diffusers.StableDiffusionPipeline(
        vae=parts.vae(3),
        text_encoder=transformers.CLIPTextModel(parts.clip_config()),
        tokenizer=parts.clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True),
        safety_checker=checker if checked else None,
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
        requires_safety_checker=checked,
    ).save_pretrained(tmp_path)
    other = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path))
    change_index(tmp_path, feature_extractor=["transformers", "CLIPFeatureExtractor"])
    pipe = load(tmp_path, "auto", CPU)
    assert dict(pipe.config) == dict(other.config)
    assert (pipe.safety_checker is not None) == pipe.config.requires_safety_checker == checked
    small = {"prompt": "a cat", "num_inference_steps": 2, "height": 64, "width": 64, "output_type": "pt"}
    first, second = (each(**small, generator=torch.Generator().manual_seed(0)).images for each in (pipe, other))
    assert torch.equal(first, second)


def dtypes(pipe):
    return {
        name: {parameter.dtype for parameter in model.parameters()}
        for name, model in pipe.components.items()
        if isinstance(model, torch.nn.Module)
    }


def test_dtypes(folder):
    place = folder("pixart")
    file = place / "transformer" / "diffusion_pytorch_model.safetensors"
    edit(file, lambda weights: weights.update({name: weight.bfloat16() for name, weight in weights.items()}))
    stored = {"text_encoder": {torch.float32}, "vae": {torch.float32}, "transformer": {torch.bfloat16}}
    assert dtypes(load(place, "auto", CPU)) == stored
    for name in ("float32", "bfloat16", "float16"):
        found = dtypes(load(place, name, CPU))
        assert found["transformer"] == found["vae"] == {getattr(torch, name)}
    with pytest.raises(ConfigError, match=r"dtype is 'float8'; choose one of auto, float32, float16, bfloat16\."):
        load(place, "float8", CPU)
    edit(file, lambda weights: weights.update({name: w.to(torch.float8_e4m3fn) for name, w in weights.items()}))
    with pytest.raises(ConfigError, match=r"dtype is auto, but .*transformer is stored as F8_E4M3, .* choose one of"):
        load(place, "auto", CPU)
    assert dtypes(load(place, "float32", CPU))["transformer"] == {torch.float32}


def test_a_variant(folder):
    place = folder("pixart")
    for file in (place / "transformer" / "diffusion_pytorch_model", place / "text_encoder" / "model"):
        weights = load_file(file.with_suffix(".safetensors"))
        file.with_suffix(".safetensors").unlink()
        save_file({name: weight.half() for name, weight in weights.items()}, file.with_suffix(".fp16.safetensors"))
    found = dtypes(load(place, "auto", CPU))
    assert found["transformer"] == {torch.float16} and found["vae"] == {torch.float32}
    assert torch.float16 in found["text_encoder"]  # T5 keeps some in float32


def test_another_scheduler(originals):
    place = tiny_pipelines.saved("pixart", originals)
    pipe = load(place, "auto", CPU, "EulerDiscreteScheduler")
    assert type(pipe.scheduler) is diffusers.EulerDiscreteScheduler
    assert pipe.scheduler.config.beta_end == load(place, "auto", CPU).scheduler.config.beta_end == 0.004
    assert latents(pipe, "pixart").isfinite().all()
    asked_for = load(tiny_pipelines.saved("cogvideox", originals), "auto", CPU, "CogVideoXDPMScheduler")
    assert type(asked_for.scheduler) is diffusers.CogVideoXDPMScheduler


@pytest.mark.parametrize("name", ["NoSuchScheduler", "FlowMatchHeunDiscreteScheduler", "SchedulerMixin", "os"])
def test_a_scheduler_that_does_not_fit(name, originals):
    place = tiny_pipelines.saved("pixart", originals)
    with pytest.raises(
        ConfigError,
        match=rf"scheduler is '{name}', which does not fit PixArtSigmaPipeline with DPMSolverMultistepScheduler; "
        r"choose one of .*DDIMScheduler, .*EulerDiscreteScheduler, .*, or leave it empty\.",
    ):
        load(place, "auto", CPU, name)


def test_no_code_of_a_folder_is_run(folder, tmp_path, monkeypatch):
    place = folder("pixart")
    marker = tmp_path / "marker"
    trap = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Trap: pass\n"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(str(elsewhere))
    for file in (elsewhere / "trap_module.py", place / "pipeline.py", place / "text_encoder" / "trap_module.py"):
        file.write_text(trap)
    config = place / "text_encoder" / "config.json"
    named = {"auto_map": {"AutoModel": "trap_module.Trap", "AutoConfig": "trap_module.Trap"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | named))
    assert latents(load(place, "auto", CPU), "pixart").isfinite().all()  # what it names is ignored
    change_index(place, text_encoder=["trap_module", "Trap"])
    with pytest.raises(ConfigError, match="takes text_encoder from 'trap_module'"):
        load(place, "auto", CPU)
    assert not marker.exists() and "trap_module" not in sys.modules
    importlib.import_module("trap_module")  # the trap works
    assert marker.exists()
    del sys.modules["trap_module"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_weights_stay_in_the_file_that_workers_share(folder):
    place = folder("pixart")
    pipe = load(place, "auto", CPU)
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if str(place / "transformer") in line]

    def mapped(parameter):
        return any(int(start, 16) <= parameter.data_ptr() < int(end, 16) for start, end in ranges)

    assert all(mapped(parameter) for parameter in pipe.transformer.parameters())
    assert not any(mapped(parameter) for parameter in load(place, "bfloat16", CPU).transformer.parameters())
