"""What a workflow does to a UNet: {name: (build, function that makes the keyword arguments of one forward)}.

Every patch here depends on where a pixel is, and on its neighbours. A UNet takes the residuals of a ControlNet out of
their lists, so the arguments are made anew for each forward.
"""

from __future__ import annotations

import torch

from .base import randn, use_comfyui
from .unet import unet, unet_inputs, unet_video, unet_video_inputs, unet_xl, unet_xl_inputs


def _by_position(x, dim):
    """Other at every place along `dim`, and every place takes something of its neighbour."""
    ramp = torch.linspace(0.5, 1.5, x.shape[dim]).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    return x * ramp + x.roll(1, dim) / 4


def _input(h, options):
    return _by_position(h, 2) if options["block"][1] % 2 else h


def _middle(given):
    return {"h": _by_position(given["h"], 2) * given["x"].mean()}


def _filtered(h, skip, options):
    """In the manner of FreeU: half of the channels in place, and a filter of all rows."""
    h[:, : h.shape[1] // 2] = h[:, : h.shape[1] // 2] * 1.3
    spectrum = torch.fft.fftn(skip, dim=(-2, -1))
    spectrum[..., 0, :] *= 0.5
    return h, torch.fft.ifftn(spectrum, dim=(-2, -1)).real


def _fused(h, skip, options):
    """In the manner of SUPIR: the skip goes into the map, and no skip is left."""
    return torch.cat([h, _by_position(skip, 2)], dim=1), None


def _shrunk(x, size):
    return torch.nn.functional.interpolate(
        x, size=[max(1, round(each * size)) for each in x.shape[-2:]], mode="bilinear"
    )


def deep_shrink(given, block, kind, size=0.5):
    """In the manner of Kohya's Deep Shrink, as ComfyUI's node has it: smaller maps from an input block on."""

    def shrink(h, options):
        return _shrunk(h, size) if options["block"][1] == block else h

    def restore(h, skip, options):
        if h.shape[2] != skip.shape[2]:
            h = torch.nn.functional.interpolate(h, size=skip.shape[-2:], mode="bilinear")
        return h, skip

    return _patched(given, **{kind: shrink}, output_block_patch=restore)


def _shrunk_middle(given):
    """Behind the middle, and back in front of the first output block's skip."""
    return _patched(
        given,
        middle_block_after_patch=lambda middle: {"h": _shrunk(middle["h"], 0.5)},
        output_block_patch=lambda h, skip, options: (torch.nn.functional.interpolate(h, size=skip.shape[-2:]), skip),
    )


def _upsample(layer, x, emb, context, options, output_shape, *more):
    assert output_shape[-2] > x.shape[-2]
    return layer(_by_position(x, 2), output_shape=output_shape) + output_shape[-2] / 10


def _upsample_any(layer, x, emb, context, options, output_shape, *more):
    return layer(_by_position(x, 2), output_shape=output_shape) + output_shape[-2] / 10


def _tiles(n, context, value, options):
    """In the manner of HyperTile: attention within halves of the picture."""
    rows = options["original_shape"][-2]
    assert options["activations_shape"][-2] * options["activations_shape"][-1] == n.shape[1]
    halves = n.reshape(2 * len(n), n.shape[1] // 2, n.shape[2]) * (1 + rows / 100)
    return halves, halves, halves


def _untile(n, options):
    return n.reshape(len(n) // 2, 2 * n.shape[1], n.shape[2])


def _identity(q, k, v, options):
    """In the manner of perturbed attention guidance, and everybody looks at his neighbour."""
    return _by_position(v, 1)


def _masked(q, k, v, options):
    """In the manner of IP-Adapter: something more for some places."""
    from comfy.ldm.modules.attention import optimized_attention

    return _by_position(optimized_attention(q, k, v, options["n_heads"]), 1)


def _tokens(x, options):
    assert options["activations_shape"][-2] * options["activations_shape"][-1] == x.shape[1]
    return _by_position(x, 1)


def _tokens_and_frames(x, options):
    """As `_tokens`; over frames (B N, T, C) by the place in the batch, which is that of the pixel."""
    return _by_position(x, 1 if len(x) == 6 else 0)


def _queries(x, context, value, options):
    return _by_position(x, 1), context * 0.9, value


def _patched(given, **patches):
    options = given.get("transformer_options", {})
    kinds = options.get("patches", {}) | {kind: [patch] for kind, patch in patches.items()}
    return given | {"transformer_options": options | {"patches": kinds}}


def _replaced(given, kind, *layers, by):
    return given | {"transformer_options": {"patches_replace": {kind: dict.fromkeys(layers, by)}}}


SKIPPED = "input_block_patch_after_skip"
MAPS = ((32, 16, 10), (32, 16, 10), (32, 8, 5), (64, 8, 5), (64, 4, 3), (64, 4, 3))
"""Channels, rows and columns of what the input blocks of `unet` make of `unet_inputs`."""


def controlled(given):
    """Residuals behind the middle and for the skips, as a ControlNet gives them; one place has none."""
    residuals = [randn(2, *size, seed=11) for size in MAPS]
    return given | {"control": {"middle": [residuals[-1] / 2], "output": [None, *residuals[1:]]}}


def adapted(given):
    """Residuals for the input blocks, as a T2I adapter gives them; some places have none, one is for all places."""
    residuals = [None, *(randn(2, *size, seed=12) for size in MAPS[1:])]
    residuals[2], residuals[3] = None, residuals[3].mean((2, 3), keepdim=True)
    return given | {"control": {"input": residuals[::-1]}}


def _upsampling(given, patch=_upsample):
    use_comfyui()
    from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample

    return _patched(given, forward_timestep_embed_patch=(Upsample, patch))


def cases():
    """{name: (build, function that makes the keyword arguments of one forward)}."""
    return {
        "input blocks": (unet, lambda: _patched(unet_inputs(), input_block_patch=_input)),
        "input blocks, behind the skip": (
            unet_xl,
            lambda: _patched(unet_xl_inputs(), input_block_patch_after_skip=_input),
        ),
        "output blocks, filtered": (unet_xl, lambda: _patched(unet_xl_inputs(19), output_block_patch=_filtered)),
        "middle and output blocks, no skip left": (
            unet,
            lambda: _patched(unet_inputs(21), output_block_patch=_fused, middle_block_after_patch=_middle),
        ),
        "upsampling layers": (unet, lambda: _upsampling(unet_inputs(21))),
        "maps of half the size behind a skip": (unet, lambda: deep_shrink(unet_inputs(22, 12), 3, SKIPPED)),
        "maps of half the size from the first block on": (unet_xl, lambda: deep_shrink(unet_xl_inputs(), 0, SKIPPED)),
        "maps of half the size, and their skips": (unet, lambda: deep_shrink(unet_inputs(19), 2, "input_block_patch")),
        "maps of nine tenths of the size": (unet, lambda: deep_shrink(unet_inputs(21), 1, SKIPPED, 0.9)),
        "larger maps": (unet_xl, lambda: deep_shrink(unet_xl_inputs(13), 3, "input_block_patch", 1.5)),
        "smaller maps in the middle": (unet, lambda: _shrunk_middle(unet_inputs(22, 12))),
        "smaller maps and a ControlNet": (unet, lambda: deep_shrink(controlled(unet_inputs()), 3, SKIPPED)),
        "smaller maps, upsampling layers": (
            unet,
            lambda: _upsampling(deep_shrink(unet_inputs(), 1, SKIPPED), _upsample_any),
        ),
        "smaller maps of frames": (unet_video, lambda: deep_shrink(unet_video_inputs(13), 2, SKIPPED)),
        "time": (unet, lambda: _patched(unet_inputs(), emb_patch=lambda emb, channels, options: emb * 1.5)),
        "self-attention in tiles": (
            unet,
            lambda: _patched(unet_inputs(), attn1_patch=_tiles, attn1_output_patch=_untile),
        ),
        "self-attention of one block replaced": (
            unet_xl,
            lambda: _replaced(unet_xl_inputs(), "attn1", ("middle", 0, 0), by=_identity),
        ),
        "cross-attention of some blocks replaced": (
            unet_xl,
            lambda: _replaced(unet_xl_inputs(19), "attn2", ("input", 3), ("output", 0, 1), by=_masked),
        ),
        "cross-attention": (
            unet,
            lambda: _patched(unet_inputs(21), attn2_patch=_queries, attn2_output_patch=_tokens),
        ),
        "cross-attention, and the self-attention of one block replaced": (
            unet_xl,
            lambda: _patched(_replaced(unet_xl_inputs(), "attn1", ("middle", 0), by=_identity), attn2_patch=_queries),
        ),
        "between the attentions": (unet, lambda: _patched(unet_inputs(22), middle_patch=_tokens)),
        "between the attentions of a film": (
            unet_video,
            lambda: _patched(unet_video_inputs(13), middle_patch=_tokens_and_frames),
        ),
        "ControlNet": (unet, lambda: controlled(unet_inputs())),
        "T2I adapter": (unet, lambda: adapted(unet_inputs())),
        "ControlNet and input blocks": (unet, lambda: _patched(controlled(unet_inputs()), input_block_patch=_input)),
    }
