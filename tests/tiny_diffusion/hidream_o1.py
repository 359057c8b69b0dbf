"""HiDream O1, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

import torch

from .base import HEADS, TIMES, build, randn
from .patches import replaced


class _Forgets(list):
    """Keeps nothing, as before the first step."""

    def __add__(self, other):
        return self

    def __getitem__(self, index):
        return self


def hidream_o1(first_step=False):
    """Two layers, with half as many heads of keys. Of its first forward it keeps the keys of the text."""
    text = {
        "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2 * HEADS,
        "num_key_value_heads": HEADS, "head_dim": 12, "rope_dims": [2, 2, 2],
    }  # fmt: skip
    sight = {"hidden_size": 24, "num_heads": 2, "intermediate_size": 32, "depth": 1, "num_position_embeddings": 16}
    module = build(
        "comfy.ldm.hidream_o1.model.HiDreamO1Transformer", text_config_overrides=text, vision_config_overrides=sight
    )
    if first_step:
        module._kv_cache_entries = _Forgets()
    return module


def _around_layer(args, extra):
    """Changes every token by its place, in front of the layer and behind it."""

    def changed(tokens):
        ramp = torch.linspace(0.5, 1.5, tokens.shape[1], device=tokens.device)[None, :, None]
        return tokens * ramp + tokens.roll(1, 1) / 4

    return {"x": changed(extra["original_block"](args | {"x": changed(args["x"])})["x"])}


def hidream_o1_inputs(reference=False):
    """A picture of 15 tokens, and a text that ends with the token of the time step; a reference is seen as 4 tokens of
    the text, and drawn with as 6 tokens."""
    seen, drawn = ([151655] * 4, 15 + 6) if reference else ([], 15)
    text = torch.tensor([[5, 6, 7, *seen, 8, 9, 151673]] * 2)
    length = text.shape[1] + drawn
    places = torch.stack([torch.arange(length) // step for step in (1, 2, 3)])
    given = {"x": randn(2, 3, 160, 96), "timesteps": TIMES * 1000, "input_ids": text, "position_ids": places[None]}
    given |= {"ar_len": text.shape[1] - 1, "vinput_mask": (torch.arange(length) >= text.shape[1]).repeat(2, 1)}
    if reference:
        given |= {"ref_pixel_values": randn(1, 16, 1536), "ref_image_grid_thw": torch.tensor([[[1, 4, 4]]])}
        given |= {"ref_patches": randn(2, 6, 3072)}
    return given


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double = ("double_block", 0)
    return {
        "hidream o1, first step": (lambda: hidream_o1(first_step=True), hidream_o1_inputs()),
        "hidream o1, a later step": (hidream_o1, hidream_o1_inputs()),
        "hidream o1, layers around": (hidream_o1, hidream_o1_inputs() | replaced(double, by=_around_layer)),
        "hidream o1, layer skipped": (hidream_o1, hidream_o1_inputs() | replaced(double, by=lambda args, extra: args)),
        "hidream o1, reference image, first step": (
            lambda: hidream_o1(first_step=True),
            hidream_o1_inputs(reference=True),
        ),
    }
