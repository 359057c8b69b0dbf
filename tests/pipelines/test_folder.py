"""A folder is refused before anything of it is loaded or run, with the reason and the way out."""

from __future__ import annotations

import importlib
import json
import shutil
import struct
import sys

import pytest
import tiny_pipelines
from compact_parallel.runtime.config import ConfigError
from compact_parallel.runtime.pipelines.folder import inspect_folder
from compact_parallel.runtime.pipelines.weight_files import read_header
from safetensors.torch import load_file, save_file

TRAP = "import pathlib\npathlib.Path({marker!r}).touch()\nclass Trap: pass\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    return tmp_path_factory.mktemp("originals")


@pytest.fixture
def folder(originals, tmp_path):
    """A tiny PixArt that a test may change."""
    return shutil.copytree(tiny_pipelines.saved("pixart", originals), tmp_path / "pixart")


def change_index(folder, **changes):
    """Writes entries into model_index.json; an entry None is taken out."""
    index = folder / "model_index.json"
    content = json.loads(index.read_text()) | changes
    index.write_text(json.dumps({name: entry for name, entry in content.items() if entry is not None}))


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def shard(component, stem="diffusion_pytorch_model"):
    """Splits the weights of a component into two files with an index."""
    whole = component / f"{stem}.safetensors"
    weights = load_file(whole)
    names = sorted(weights)
    table = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, component / file)
        table |= dict.fromkeys(part, file)
    (component / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    whole.unlink()


def refusal_of(folder):
    with pytest.raises(ConfigError) as error:
        inspect_folder(folder)
    message = str(error.value)
    assert message.startswith("folder") and message.endswith(".") and "; " in message
    return message


def refusal(folder):
    message = refusal_of(folder)
    assert str(folder) in message
    return message


@pytest.mark.parametrize("name", tiny_pipelines.NAMES)
def test_a_whole_folder_is_taken(name, originals):
    facts = inspect_folder(tiny_pipelines.saved(name, originals))
    index = json.loads((facts.path / "model_index.json").read_text())
    assert facts.pipeline == index["_class_name"]
    assert {part: list(entry) for part, entry in facts.components.items()}.items() <= index.items()
    found = sorted(facts.path.rglob("*.safetensors"))
    assert sorted(facts.files) == found
    assert 0.9 < facts.nbytes / sum(file.stat().st_size for file in found) < 1
    assert {weights.dtype for weights in facts.weights.values()} == {"float32"}


def test_a_folder_that_is_none(folder, tmp_path):
    assert "which is not a folder" in refusal(tmp_path / "absent")
    assert "which is not a folder" in refusal(folder / "model_index.json")
    assert "has no model_index.json" in refusal(folder / "vae")


@pytest.mark.parametrize(("text", "reason"), [("{", "not readable as JSON"), ("[]", "holds no JSON object")])
def test_a_broken_index(text, reason, folder):
    (folder / "model_index.json").write_text(text)
    assert reason in refusal(folder)


@pytest.mark.parametrize(
    "name", ["NoSuchPipeline", "UNet2DModel", "DiffusionPipeline", "ModularPipeline", "pipelines", "logging", ""]
)
def test_a_name_that_is_no_pipeline_of_diffusers(name, folder):
    change_index(folder, _class_name=name)
    assert f"names the pipeline {name!r}, which is not one of diffusers" in refusal(folder)


@pytest.mark.parametrize("entry", [["pipeline", "MyPipeline"], 3, None])
def test_a_pipeline_with_code_of_its_own(entry, folder):
    change_index(folder, _class_name=entry)
    assert f"names the pipeline {entry!r}, code of its own that is not run" in refusal(folder)


def test_a_pipeline_that_would_fetch_others(folder):
    change_index(folder, _class_name="KandinskyCombinedPipeline")
    assert "fetches other pipelines when it is loaded" in refusal(folder)


def test_a_pipeline_whose_packages_are_absent(folder):
    import diffusers

    if not hasattr(diffusers.OnnxStableDiffusionPipeline, "_backends"):
        pytest.skip("onnx is installed")
    change_index(folder, _class_name="OnnxStableDiffusionPipeline")
    assert "needs torch, transformers, onnx" in refusal(folder).replace("transformers, torch", "torch, transformers")


def test_a_pipeline_whose_module_cannot_be_imported(folder, monkeypatch):
    import diffusers

    for place in ("diffusers", "diffusers.pipelines", "diffusers.pipelines.lumina"):
        monkeypatch.delitem(vars(sys.modules.get(place, diffusers)), "LuminaPipeline", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.lumina.pipeline_lumina", None)
    change_index(folder, _class_name="LuminaPipeline")
    assert "diffusers.LuminaPipeline cannot be imported (" in refusal_of(folder)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (["torch.nn", "Linear"], "takes vae from 'torch.nn', and only diffusers and transformers are allowed"),
        (["os", "system"], "takes vae from 'os'"),
        (["pipeline_utils", "DiffusionPipeline"], "takes vae from 'pipeline_utils'"),
        (["..models", "AutoencoderKL"], "takes vae from '..models'"),
        (["diffusers", "NoSuchModel"], "names diffusers.NoSuchModel for vae, which is no part of a pipeline"),
        (["diffusers", "FluxPipeline"], "names diffusers.FluxPipeline for vae, which is no part"),
        (["diffusers", "logging"], "names diffusers.logging for vae, which is no part"),
        (
            ["diffusers", "AutoencoderKLWan"],
            "names AutoencoderKLWan for vae, and PixArtSigmaPipeline wants AutoencoderKL",
        ),
        (["diffusers", "DDIMScheduler"], "names DDIMScheduler for vae, and PixArtSigmaPipeline wants AutoencoderKL"),
        (["transformers", "AutoModel"], "names transformers.AutoModel for vae, which is no part"),
        (["diffusers", None], "says ['diffusers', None] for vae, not a library and a class"),
        ([["diffusers", "AutoencoderKL"]], "not a library and a class"),
    ],
)
def test_a_component_that_is_not_allowed(entry, reason, folder):
    change_index(folder, vae=entry)
    assert reason in refusal(folder)


@pytest.mark.parametrize(
    ("component", "entry", "wanted"),
    [
        ("tokenizer", ["diffusers", "AutoencoderKL"], "T5Tokenizer"),
        ("tokenizer", ["diffusers", "DDIMScheduler"], "T5Tokenizer"),
        ("scheduler", ["transformers", "T5Tokenizer"], "KarrasDiffusionSchedulers"),
        ("text_encoder", ["transformers", "UMT5EncoderModel"], "T5EncoderModel"),
    ],
)
def test_a_component_of_the_wrong_kind(component, entry, wanted, folder):
    change_index(folder, **{component: entry})
    assert f"names {entry[1]} for {component}, and PixArtSigmaPipeline wants {wanted}" in refusal(folder)


@pytest.mark.parametrize(
    ("component", "entry"),
    [("tokenizer", ["transformers", "T5TokenizerFast"]), ("scheduler", ["diffusers", "DDIMScheduler"])],
)
def test_a_harmless_difference_is_taken(component, entry, folder):
    change_index(folder, **{component: entry})
    assert inspect_folder(folder).components[component] == tuple(entry)


def test_a_class_of_before_is_replaced_by_the_one_that_works(originals, tmp_path):
    folder = shutil.copytree(tiny_pipelines.saved("audioldm2", originals), tmp_path / "audioldm2")
    change_index(folder, language_model=["transformers", "GPT2Model"])
    assert inspect_folder(folder).components["language_model"] == ("transformers", "GPT2LMHeadModel")
    change_index(folder, language_model=["transformers", "T5EncoderModel"])
    assert "AudioLDM2Pipeline wants GPT2LMHeadModel" in refusal(folder)


def test_components_that_the_pipeline_lacks_or_does_not_know(folder):
    change_index(folder, vae=None)
    assert "has no vae, which PixArtSigmaPipeline needs" in refusal(folder)
    change_index(folder, vae=[None, None])
    assert "has no vae, which PixArtSigmaPipeline needs" in refusal(folder)
    change_index(folder, vae=["diffusers", "AutoencoderKL"], safety_checker=["transformers", "CLIPTextModel"])
    assert "has safety_checker, which PixArtSigmaPipeline does not take" in refusal(folder)
    change_index(folder, safety_checker=None, text_encoder=[None, None], tokenizer=[None, None])
    assert set(inspect_folder(folder).components) == {"scheduler", "transformer", "vae"}


def test_a_missing_component(folder):
    shutil.rmtree(folder / "tokenizer")
    assert f"{folder / 'tokenizer'} is missing" in refusal(folder)


@pytest.mark.parametrize("file", ["vae/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_configuration(file, folder):
    (folder / file).unlink()
    assert f"{folder / file} is not readable as JSON" in refusal(folder)


@pytest.mark.parametrize("suffix", ["bin", "ckpt", "pt"])
def test_pickles_are_not_opened(suffix, folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / f"diffusion_pytorch_model.{suffix}"
    )
    assert f"has its weights as diffusion_pytorch_model.{suffix}, a file that can run code" in refusal(folder)


def test_no_weights(folder):
    (folder / "text_encoder" / "model.safetensors").unlink()
    assert f"{folder / 'text_encoder'} has no model.safetensors" in refusal(folder)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def grow(file):
    file.write_bytes(file.read_bytes() + b"x")


def pickle_inside(file):
    file.write_bytes(b"\x80\x04\x95" + file.read_bytes())


def empty(file):
    file.write_bytes(b"")


def huge_header(file):
    file.write_bytes(struct.pack("<Q", 1 << 62) + file.read_bytes()[8:])


def no_json(file):
    file.write_bytes(struct.pack("<Q", 4) + b"{a:1")


def no_entries(file):
    file.write_bytes(struct.pack("<Q", 9) + b'{"a": []}')


@pytest.mark.parametrize("damage", [cut, grow, pickle_inside, empty, huge_header, no_json, no_entries])
def test_a_damaged_file(damage, folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    damage(file)
    assert f"{file} is not a whole safetensors file" in refusal(folder)


def test_a_header_says_what_is_in_a_file(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    header = read_header(file)
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }


@pytest.mark.parametrize(("component", "stem"), [("vae", "diffusion_pytorch_model"), ("text_encoder", "model")])
def test_weights_in_parts(component, stem, folder):
    size = inspect_folder(folder).weights[component].nbytes
    shard(folder / component, stem)
    weights = inspect_folder(folder).weights[component]
    assert [file.name for file in weights.files] == [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert weights.nbytes == size
    weights.files[1].unlink()
    assert f"names {weights.files[1].name}, which {folder / component} does not have" in refusal(folder)
    index = folder / component / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    assert "names ../elsewhere.safetensors, which" in refusal(folder)
    index.write_text(json.dumps({"weight_map": []}))
    assert "does not say which file has which weight" in refusal(folder)


def test_weights_of_a_variant(folder):
    vae = folder / "vae"
    file = vae / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, vae / "diffusion_pytorch_model.fp16.safetensors")
    assert inspect_folder(folder).weights["vae"].variant is None
    file.rename(vae / "diffusion_pytorch_model.ema.safetensors")
    assert "has its weights as ema, fp16 and none without a name for it" in refusal(folder)
    (vae / "diffusion_pytorch_model.ema.safetensors").unlink()
    assert inspect_folder(folder).weights["vae"].variant == "fp16"


def test_the_dtype_is_that_of_most_of_the_bytes(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = {name: weight.bfloat16() for name, weight in load_file(file).items()}
    save_file(weights | {"a": weights["encoder.conv_in.bias"].float()}, file)
    assert inspect_folder(folder).weights["vae"].dtype == "bfloat16"


def test_models_that_need_more_than_the_folder(folder):
    (folder / "text_encoder" / "adapter_config.json").write_text("{}")
    assert "is an adapter of another model" in refusal(folder)
    (folder / "text_encoder" / "adapter_config.json").unlink()
    change_json(folder / "text_encoder" / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "is quantised (quantization_config)" in refusal(folder)
    change_json(folder / "text_encoder" / "config.json", quantization_config=None)
    inspect_folder(folder)
    change_json(folder / "text_encoder" / "config.json", text_config={"_attn_implementation": "kernels-community/x"})
    assert "asks for the attention kernels 'kernels-community/x' of a website" in refusal(folder)


def test_no_code_of_a_folder_is_run(folder, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(str(elsewhere))
    for file in (elsewhere / "trap_module.py", folder / "pipeline.py", folder / "vae" / "diffusers.py"):
        file.write_text(TRAP.format(marker=str(marker)))
    assert "code of its own in diffusers.py, which is not run" in refusal(folder)
    (folder / "vae" / "diffusers.py").rename(folder / "vae" / "trap_module.py")
    inspect_folder(folder)  # a file that nothing names is left alone
    change_index(folder, vae=["trap_module", "Trap"])
    assert "takes vae from 'trap_module'" in refusal(folder)
    change_index(folder, vae=["diffusers", "AutoencoderKL"], _class_name=["pipeline", "Trap"])
    assert "code of its own that is not run" in refusal(folder)
    assert not marker.exists() and "trap_module" not in sys.modules
    importlib.import_module("trap_module")  # the trap works
    assert marker.exists()
    del sys.modules["trap_module"]
