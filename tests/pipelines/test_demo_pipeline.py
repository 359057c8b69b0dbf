"""The tiny trained model as a pipeline of diffusers: its parts against ComfyUI's, and the picture of both.

The pipeline is completed in a folder of the tests' own, from the files that are shipped.
"""

from __future__ import annotations

import shutil
import threading

import diffusers
import pytest
import tiny_picture
import torch
from compact_parallel.nodes.demo_encoding import REGISTERS, choices_to_indices, encode
from compact_parallel.nodes.demo_pipeline import MODELS, NAME, complete, to_transformer
from compact_parallel.runtime.config import ConfigError
from compact_parallel.runtime.pipelines.loading import load
from safetensors.torch import load_file

CPU = torch.device("cpu")
PROMPT = "an orange cross in the centre, plain, on navy"
CHOICES = {"shape": "cross", "colour": "orange", "background": "navy", "texture": "plain", "position": "centre"}
STEPS, SIZE = 5, 192


def copied(root):
    """The shipped models in a folder of their own, and the pipeline there, which is not complete."""
    models = root / "models"
    shutil.copytree(MODELS / "diffusers", models / "diffusers", ignore=shutil.ignore_patterns(NAME))
    for kind in ("diffusion_models", "vae"):
        (models / kind).symlink_to(MODELS / kind)
    return models, models / "diffusers" / "compact_parallel_tiny"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    models, folder = copied(tmp_path_factory.mktemp("demo"))
    complete(folder, models)
    pipe = load(folder, "auto", CPU)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prediction(transformer, x, sigma, **choices):
    """What the transformer of diffusers predicts for latents x (B, 16, H, W)."""
    height, width = x.shape[-2:]
    tokens, pooled = encode(choices_to_indices(**choices))
    packed = transformer(
        hidden_states=diffusers.FluxPipeline._pack_latents(x, len(x), 16, height, width),
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=torch.full((len(x),), sigma),
        img_ids=diffusers.FluxPipeline._prepare_latent_image_ids(1, height // 2, width // 2, CPU, x.dtype),
        txt_ids=torch.zeros(tokens.shape[1], 3),
    ).sample
    return diffusers.FluxPipeline._unpack_latents(packed, 8 * height, 8 * width, 8)


def error(a, b):
    return float((a - b).norm() / b.norm())


@torch.inference_mode()
def test_the_transformer_predicts_what_comfyuis_model_predicts(pipe):
    """And no longer does with q and k, or scale and shift, in the other order."""
    noise = torch.randn(1, 16, 24, 32, generator=torch.Generator().manual_seed(0))
    tokens, pooled = encode(choices_to_indices(**CHOICES))
    weights = load_file(MODELS / "diffusion_models" / "compact_parallel_tiny.safetensors")
    wrong = {}
    for name, parts, order in (
        ("double_blocks.1.img_attn.qkv.weight", 3, (1, 0, 2)),
        ("final_layer.adaLN_modulation.1.weight", 2, (1, 0)),
    ):
        chunks = weights[name].chunk(parts)
        changed = weights | {name: torch.cat([chunks[place] for place in order])}
        wrong[name] = diffusers.FluxTransformer2DModel.from_config(pipe.transformer.config)
        wrong[name].load_state_dict(to_transformer(changed))
    model = tiny_picture.model().model.diffusion_model
    for sigma in (1.0, 0.55, 0.05):
        expected = model(noise, torch.tensor([sigma]), tokens, pooled)
        assert error(prediction(pipe.transformer, noise, sigma, **CHOICES), expected) < 1e-5
        for name, transformer in wrong.items():
            assert error(prediction(transformer, noise, sigma, **CHOICES), expected) > 1e-3, name


@torch.inference_mode()
def test_the_autoencoder_is_comfyuis(pipe):
    picture = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = pipe.vae.encode(picture * 2 - 1).latents
    stock = tiny_picture.model().model.process_latent_in(tiny_picture.vae().encode(picture.movedim(1, -1)))
    assert error(latents, stock) < 1e-5
    decoded = pipe.vae.decode(latents).sample.add(1).div(2).clamp(0, 1)
    assert error(decoded.movedim(1, -1), tiny_picture.picture(tiny_picture.vae().encode(picture.movedim(1, -1)))) < 1e-5


@torch.inference_mode()
def test_the_picture_is_comfyuis(pipe):
    samples = tiny_picture.sample_prompt(tiny_picture.model(), CHOICES, seed=3, size=SIZE, steps=STEPS)
    expected = tiny_picture.picture(samples)
    noise = torch.randn(1, 16, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))
    latents = pipe._pack_latents(noise, 1, 16, SIZE // 8, SIZE // 8)
    drawn, _ = pipe.prepare_latents(1, 16, SIZE, SIZE, noise.dtype, CPU, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, latents)  # the noise of a seed is ComfyUI's, too

    def picture(scale=tiny_picture.CFG, prompt=PROMPT):
        out = pipe(
            prompt, negative_prompt="", true_cfg_scale=scale, max_sequence_length=8, num_inference_steps=STEPS,
            width=SIZE, height=SIZE, latents=latents.clone(), output_type="pt",
        )  # fmt: skip
        return out.images.movedim(1, -1)

    assert (picture() - expected).abs().max() < 1e-3
    assert error(picture(scale=tiny_picture.CFG + 0.1), expected) > 1e-3
    assert error(picture(prompt=PROMPT.replace("plain", "dots")), expected) > 1e-3


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("red circle, top left, sand, stripes",
         {"shape": "circle", "colour": "red", "background": "sand", "texture": "stripes", "position": "top left"}),
        ("Stripes on SAND:\nat the top-left a circle in red",
         {"shape": "circle", "colour": "red", "background": "sand", "texture": "stripes", "position": "top left"}),
        ("at the top a star", {"shape": "star", "position": "top"}),
        ("left, top", {"position": "left"}),
        ("a red or blue ring | bottom  right", {"shape": "ring", "colour": "red", "position": "bottom right"}),
        ("a starry starboard, topmost", {}),
        ("any", {}),
        (" ", {}),
        ("", {}),
    ],
)  # fmt: skip
@torch.inference_mode()
def test_the_text_encoders_give_the_demo_prompts_encoding(pipe, text, choices):
    tokens, pooled, _ = pipe.encode_prompt(text, text, max_sequence_length=8)
    expected, expected_pooled = encode(choices_to_indices(**choices))
    if not text:  # the same tokens, which have no places in the model, in another order
        tokens = tokens.roll(-REGISTERS, 1)
    assert torch.equal(tokens, expected)
    assert (pooled - expected_pooled).abs().max() < 1e-6


def test_the_folder_is_completed_once_and_again_if_the_model_is_newer(tmp_path):
    models, folder = copied(tmp_path)
    made = [folder / part / NAME for part in ("transformer", "vae")]
    threads = [threading.Thread(target=complete, args=(folder, models)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = [file.stat().st_mtime_ns for file in made]
    assert sorted(file.name for file in (folder / "vae").iterdir()) == ["config.json", NAME]
    complete(folder, models)
    assert [file.stat().st_mtime_ns for file in made] == first
    source = MODELS / "vae" / "compact_parallel_tiny_vae.safetensors"
    (models / "vae").unlink()
    (models / "vae").mkdir()
    shutil.copyfile(source, models / "vae" / source.name)  # newer than what was made of it
    complete(folder, models)
    assert [file.stat().st_mtime_ns == before for file, before in zip(made, first)] == [True, False]


def test_other_folders_are_left_alone(tmp_path):
    models, folder = copied(tmp_path)
    other = folder.rename(folder.with_name("other"))
    complete(other, models)
    assert not (other / "vae" / NAME).exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    models, folder = copied(tmp_path)
    shutil.rmtree(folder / "vae")
    (folder / "vae").touch()
    with pytest.raises(ConfigError, match="could not be written"):
        complete(folder, models)
