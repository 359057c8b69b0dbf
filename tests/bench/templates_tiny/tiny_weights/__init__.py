"""A custom node pack for tests, with which ComfyUI's own loaders load model files of sizes that they do not know.

ComfyUI detects the sizes of most models from their weights, and reads those of Wan, LTX and MiniMax from the metadata
of the file. This pack extends the latter to every file, for models with one size only: the metadata of a diffusion
model states its family and sizes, that of a text encoder or CLIP vision the shapes of its outputs. Diffusion models and
VAEs stay ComfyUI's own. Text encoders and CLIP vision are replaced: they give random numbers of the right shape, seeded
by the text or picture.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import comfy.clip_vision
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
KEY = "tiny_weights"
"""Key in a file's metadata, whose value is JSON: {"family": a class of supported_models, "sizes": its unet_config,
"text": ..., "vision": ...}."""
_TOKENS = 5

_load_diffusion_model = comfy.sd.load_diffusion_model
_load_checkpoint = comfy.sd.load_checkpoint_guess_config
_load_clip = comfy.sd.load_clip
_load_vision = comfy.clip_vision.load
_model_config_from_unet = comfy.model_detection.model_config_from_unet


def said(path: str) -> dict[str, Any]:
    """The entry KEY of a file's metadata; empty if there is none."""
    _, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    return json.loads((metadata or {}).get(KEY, "{}"))


def model_config_from_unet(state_dict, unet_key_prefix, use_base_if_no_match=False, metadata=None):
    """Replaces ComfyUI's function: takes family and sizes from the metadata, if they are there."""
    given = json.loads((metadata or {}).get(KEY, "{}"))
    if "family" not in given:
        return _model_config_from_unet(state_dict, unet_key_prefix, use_base_if_no_match, metadata)
    return getattr(comfy.supported_models, given["family"])(given["sizes"])


def load_diffusion_model(unet_path, model_options={}, disable_dynamic=False):  # noqa: B006, as ComfyUI has it
    """Calls ComfyUI's function; workers call it from here, so that they load this pack."""
    return _load_diffusion_model(unet_path, model_options, disable_dynamic)


def load_checkpoint_guess_config(ckpt_path, output_vae=True, output_clip=True, *args, **kwargs):
    """Calls ComfyUI's function, with the stand-ins that the file asks for; workers call it from here."""
    given = said(ckpt_path)
    stands_in = output_clip and "text" in given
    clip_is_there = output_clip and not stands_in
    model, clip, vae, vision = _load_checkpoint(ckpt_path, output_vae, clip_is_there, *args, **kwargs)
    clip = TextEncoder(given["text"]) if stands_in else clip
    return model, clip, vae, Vision(given["vision"]) if "vision" in given else vision


def load_clip(ckpt_paths, embedding_directory=None, clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION, **more):
    """Calls ComfyUI's function, or makes the stand-in if the first file asks for it."""
    given = said(ckpt_paths[0])
    if "text" in given:
        return TextEncoder(given["text"])
    return _load_clip(ckpt_paths, embedding_directory, clip_type, **more)


def load_vision(ckpt_path):
    """Calls ComfyUI's function, or makes the stand-in if the file asks for it."""
    given = said(ckpt_path)
    return Vision(given["vision"]) if "vision" in given else _load_vision(ckpt_path)


def drawn(shape: list[int], by: bytes) -> torch.Tensor:
    """Random numbers of this shape, seeded by the bytes `by`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(by)))


class TextEncoder(comfy.sd.CLIP):
    """A stand-in for a text encoder: random conditioning of `_TOKENS` tokens, or one or two more, by the text.

    `gives`: {"width": of a token, "pooled": width of the pooled text, and, for further conditioning, "numbers", "ids",
    "ones": {name: shape, in which 0 stands for the number of tokens}}.
    """

    def __init__(self, gives: dict[str, Any]) -> None:
        super().__init__(no_init=True)
        self.gives = gives
        self.cond_stage_model = torch.nn.Linear(1, 1)
        cpu = torch.device("cpu")
        self.patcher = comfy.model_patcher.ModelPatcher(self.cond_stage_model, load_device=cpu, offload_device=cpu)

    def clone(self, disable_dynamic: bool = False) -> TextEncoder:
        """A new stand-in with the same outputs; loaders of LoRAs call this."""
        return TextEncoder(self.gives)

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        """Does nothing: there is no tokenizer."""

    def clip_layer(self, layer_idx: int) -> None:
        """Does nothing: there are no layers."""

    def tokenize(self, text: str, return_word_ids: bool = False, **more: Any) -> bytes:
        """The bytes of text, lyrics and pictures, by which the numbers are seeded."""
        pictures = [picture.cpu().numpy().tobytes() for picture in more.get("images") or []]
        return b"".join([str(text).encode(), str(more.get("lyrics", "")).encode(), *pictures])

    def encode_from_tokens(self, tokens: bytes, return_pooled: bool = False, return_dict: bool = False) -> Any:
        """Has the signature of ComfyUI's method."""
        count = _TOKENS + zlib.crc32(tokens) % 3

        def made(kind: str) -> dict[str, torch.Tensor]:
            shapes = {name: [size or count for size in shape] for name, shape in self.gives.get(kind, {}).items()}
            return {name: drawn(shape, tokens + name.encode()) for name, shape in shapes.items()}

        given = {"cond": drawn([1, count, self.gives["width"]], tokens)}
        given |= {"pooled_output": drawn([1, self.gives.get("pooled", 1)], tokens + b"pooled")} | made("numbers")
        given |= {name: (10 * value.abs()).long() for name, value in made("ids").items()}
        given |= {name: torch.ones_like(value).long() for name, value in made("ones").items()}
        if return_dict:
            return given
        return (given["cond"], given["pooled_output"]) if return_pooled else given["cond"]

    def encode_from_tokens_scheduled(self, tokens: bytes, unprojected=False, add_dict=None, show_pbar=True) -> Any:
        """Has the signature of ComfyUI's method."""
        given = self.encode_from_tokens(tokens, return_dict=True)
        return [[given.pop("cond"), given | (add_dict or {})]]

    def generate(self, tokens: bytes, **more: Any) -> bytes:
        """Stands in for generated token ids."""
        return tokens

    def decode(self, token_ids: bytes, skip_special_tokens: bool = True) -> str:
        """A text for the token ids of `generate`."""
        return f"written after {zlib.crc32(token_ids)}"


class Vision:
    """A stand-in for CLIP vision. `gives`: {"width": of a token, "tokens": their number, "embeds": of image_embeds}."""

    def __init__(self, gives: dict[str, int]) -> None:
        self.gives = gives

    def encode_image(self, image: torch.Tensor, crop: bool = True) -> comfy.clip_vision.Output:
        """Has the signature of ComfyUI's method."""
        seen = image.cpu().numpy().tobytes()
        output = comfy.clip_vision.Output()
        output.last_hidden_state = drawn([len(image), self.gives["tokens"], self.gives["width"]], seen)
        output.penultimate_hidden_states = drawn([len(image), self.gives["tokens"], self.gives["width"]], seen + b"1")
        output.image_embeds = drawn([len(image), self.gives["embeds"]], seen + b"2")
        output.image_sizes = [image.shape[1:]] * len(image)
        return output


comfy.model_detection.model_config_from_unet = model_config_from_unet
comfy.sd.load_diffusion_model = load_diffusion_model
comfy.sd.load_checkpoint_guess_config = load_checkpoint_guess_config
comfy.sd.load_clip = load_clip
comfy.clip_vision.load = load_vision
