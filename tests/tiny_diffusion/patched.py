"""Patches between the blocks that look at all tokens: {name: (build, keyword arguments of one forward)}."""

from __future__ import annotations

import torch

from .first import FLUX2, flux, inputs, sd3, wan
from .image import (
    REFERENCE,
    aura,
    aura_inputs,
    chroma,
    chroma_inputs,
    control,
    lumina,
    lumina_inputs,
    pixel_space,
    qwen,
    qwen_inputs,
    radiance,
)
from .relatives import animate, animate_inputs, humo, humo_inputs, sound_inputs, sound_to_video
from .video import hunyuan, hunyuan_inputs, ltx, ltx_inputs


def by_position(tokens):
    """Other for every token, and every token takes something of its neighbour."""
    ramp = torch.linspace(0.5, 1.5, tokens.shape[1], device=tokens.device)[None, :, None]
    return tokens * ramp + tokens.roll(1, 1) / 4


def _around(args, extra):
    out = extra["original_block"](args | {"img": by_position(args["img"])})
    return out | {"img": by_position(out["img"])}


def _skip(args, extra):
    return args


def _behind(args):
    return args | {"img": by_position(args["img"])} | ({"txt": by_position(args["txt"])} if "txt" in args else {})


def _in_place(args):
    args["img"][:, :5] += (
        args["txt"].mean(1, keepdim=True) * args["img_input"][:, :5] + args["pe"][:, :5, 0, :1, 0, 0, None].sum()
    )
    return {}


def replaced(*layers, by=_around):
    """transformer_options in which these layers, (kind, index), are replaced."""
    return {"transformer_options": {"patches_replace": {"dit": {layer: by for layer in layers}}}}


def behind(patch=_behind):
    """transformer_options with a patch behind every block."""
    return {"transformer_options": {"patches": {"double_block": [patch]}}}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    double, single, last = ("double_block", 0), ("single_block", 0), ("double_block", 1)
    per_frame = {"timestep": torch.rand(2, 3, generator=torch.Generator().manual_seed(1))}
    first_frame = {"guiding_frame_index": torch.zeros(2)}
    return {
        "flux, blocks around": (flux, inputs("flux") | replaced(double, single)),
        "flux, layers skipped, the first among them": (flux, inputs("flux") | replaced(double, single, by=_skip)),
        "flux, blocks around, ControlNet, reference latent at time 0": (
            lambda: flux(**FLUX2),
            inputs("flux") | replaced(last, single) | control(72) | REFERENCE,
        ),
        "sd3, blocks around": (sd3, inputs("sd3") | replaced(last)),
        "sd3, layer skipped": (sd3, inputs("sd3") | replaced(double, by=_skip)),
        "qwen, blocks around": (qwen, qwen_inputs() | replaced(double)),
        "qwen, patch behind every block": (qwen, qwen_inputs() | behind()),
        "lumina, patch behind every block (Z-Image ControlNet)": (
            lambda: lumina(pad_tokens_multiple=8),
            lumina_inputs() | behind(_in_place),
        ),
        "lumina, pixel space, patch behind every block": (pixel_space, lumina_inputs() | behind(_in_place)),
        "chroma, blocks around": (chroma, chroma_inputs() | replaced(double, single)),
        "chroma radiance, blocks around": (radiance, chroma_inputs(3) | replaced(double, ("single_block", 1))),
        "aura, blocks around": (aura, aura_inputs() | replaced(double, single)),
        "wan, blocks around": (wan, inputs("wan") | replaced(double)),
        "wan, patch behind every block, time step per frame": (wan, inputs("wan") | behind() | per_frame),
        "wan animate, blocks around, time step per frame": (animate, animate_inputs() | replaced(double) | per_frame),
        "wan animate, time step per frame": (animate, animate_inputs() | per_frame),
        "wan sound to video, patch behind every block": (sound_to_video, sound_inputs() | behind()),
        "wan humo, blocks around": (humo, humo_inputs() | replaced(last)),
        "wan humo, time step per frame": (humo, humo_inputs() | per_frame),
        "hunyuan, blocks around": (hunyuan, hunyuan_inputs() | replaced(double, single)),
        "hunyuan, blocks around, first frame given": (hunyuan, hunyuan_inputs() | replaced(last, single) | first_frame),
        "ltx, blocks around": (ltx, ltx_inputs() | replaced(double)),
    }
