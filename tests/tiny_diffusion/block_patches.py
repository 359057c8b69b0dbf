"""Patches inside blocks and attention that look at all tokens: {name: (build, function that makes the arguments)}.

The arguments are made anew for each forward, as patches may remember.
"""

from __future__ import annotations

import math

import torch

from .base import TIMES, inputs, randn, use_comfyui
from .chroma import chroma, chroma_inputs, radiance
from .flux import FLUX2, REFERENCE, flux
from .hunyuan import hunyuan, hunyuan_inputs
from .hunyuan3d import hunyuan3d, hunyuan3d_inputs
from .krea import krea, krea_inputs
from .patches import along, control
from .predict2 import predict2, predict2_inputs
from .qwen import mage_flow, mage_flow_inputs, qwen, qwen_inputs
from .wan import (
    animate,
    animate_inputs,
    dancer,
    dancer_inputs,
    humo,
    humo_inputs,
    sound_inputs,
    sound_to_video,
    wan,
    wan_relative,
)


def patched(**kinds):
    """transformer_options of one patch, or several, of each kind."""
    lists = {kind: patches if isinstance(patches, list) else [patches] for kind, patches in kinds.items()}
    return {"transformer_options": {"patches": lists, "uuids": ["first", "second"], "cond_or_uncond": [0, 1]}}


def mixed(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """Of every other layer, and what it does not give stays."""
    if extra_options["block_index"] % 2:
        return {}
    dim = 2 if q.ndim == 4 else 1
    return {"q": along(q, dim), "k": along(k, dim).flip(0), "v": along(v, dim)}


def everywhere(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """Of every layer, of a model that counts none."""
    assert pe is None
    return {"q": along(q, 2), "k": along(k, 2), "v": v}


def all_of_it(out, extra_options):
    """Changes every token."""
    return along(out, 1)


def with_references(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """In the manner of reference attention: keys of another picture behind those of this one, with their places."""
    more = randn(*k.shape[:2], 4, k.shape[3], seed=5)
    mask = None if attn_mask is None else torch.nn.functional.pad(attn_mask, (0, 4), value=-0.5)
    pe = torch.cat([pe, pe[:, :, -4:]], 2)
    return {"q": q, "k": torch.cat([k, more], 2), "v": torch.cat([v, more.roll(1, 2)], 2), "pe": pe, "attn_mask": mask}


def merged(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """In the manner of token merging: queries of every other token."""
    return {"q": q[:, :, ::2], "pe": pe}


def unmerged(out, extra_options):
    """And each is then for two of them."""
    first, last = extra_options["img_slice"]
    return out.repeat_interleave(2, dim=1)[:, :last] * (1 + first / 10)


def image_only(out, extra_options):
    """Changes the picture's tokens in place, by where they are."""
    first, last = extra_options.get("img_slice", (0, out.shape[1]))
    assert last == out.shape[1]
    out[:, first:last] = along(out[:, first:last], 1)
    return out


def nag():
    """The patch that ComfyUI's node puts on a model."""
    use_comfyui()
    import comfy.model_patcher
    import comfy_extras.nodes_nag

    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(torch.nn.Identity(), cpu, cpu)
    patcher = comfy_extras.nodes_nag.NAGuidance.execute(patcher, 5.0, 0.5, 1.5)[0]
    return patcher.model_options["transformer_options"]["patches"]["attn1_output_patch"]


def kv_cache():
    """The patches that ComfyUI's Flux KV Cache puts on a model: what it saw of references stands in for them later."""
    use_comfyui()
    import comfy.model_patcher
    import comfy_extras.nodes_flux

    cpu, holder = torch.device("cpu"), torch.nn.Module()
    holder.diffusion_model = flux()
    patcher = comfy_extras.nodes_flux.FluxKVCache.execute(comfy.model_patcher.ModelPatcher(holder, cpu, cpu))[0]
    return patched(**patcher.model_options["transformer_options"]["patches"])


def behind_attention(args):
    """Wan's: remembers something of the keys for the patch behind cross-attention."""
    options = args["transformer_options"]
    options["seen"] = along(args["k"] * args["q"], 1).mean((2, 3))[:, :, None]
    return along(args["x"], 1)


def behind_cross_attention(args):
    """Takes up what `behind_attention` has remembered, and attends by itself to all tokens."""
    from comfy.ldm.modules.attention import optimized_attention

    x, options = args["x"], args["transformer_options"]
    assert x.shape[1] >= math.prod(options.get("grid_sizes", ()))
    return along(x, 1) + optimized_attention(x, x, x, 6, transformer_options=options) + options.pop("seen", 0)


def queries_and_text(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """Predict2's, of cross-attention."""
    assert pe.shape[1] == q.shape[1]
    return {"q": along(q, 1), "k": k.roll(1, 1), "v": v * 1.1}


def on_a_grid(args):
    """Predict2's, in front of the feed-forward."""
    x = args["x"]
    assert x.shape[1:4] == (3, 5, 3)
    return args | {"x": along(along(x, 1), 3)}


FLUX_PATCHES = {"attn1_patch": [mixed, mixed], "attn1_output_patch": image_only}
WAN_PATCHES = {"attn1_patch": behind_attention, "attn2_patch": behind_cross_attention}
VACE = {"vace_context": randn(2, 2, 8, 3, 10, 6), "vace_strength": [1.0, 0.5]}


def _skip_layer():
    replaced = {"dit": {("double_block", 0): lambda args, extra: extra["original_block"](args)}}
    given = patched(**FLUX_PATCHES)
    return {"transformer_options": given["transformer_options"] | {"patches_replace": replaced}}


def cases():
    """{name: (build, function that makes the keyword arguments of one forward)}."""
    references = {"attn1_patch": with_references}
    masked = {"attention_mask": randn(2, 22, 22)}
    text_mask = {"attention_mask": torch.tensor([[1.0] * 7, [1.0] * 5 + [0.0] * 2])}
    return {
        "flux": (flux, lambda: inputs("flux") | patched(**FLUX_PATCHES)),
        "flux, NAG": (flux, lambda: inputs("flux") | patched(attn1_output_patch=nag())),
        "flux, keys added": (flux, lambda: inputs("flux") | patched(**references)),
        "flux, keys added, mask": (flux, lambda: inputs("flux") | masked | patched(**references)),
        "flux, tokens merged": (
            flux,
            lambda: inputs("flux") | patched(attn1_patch=merged, attn1_output_patch=unmerged),
        ),
        "flux, blocks replaced": (flux, lambda: inputs("flux") | _skip_layer()),
        "flux2, ControlNet, reference latent": (
            lambda: flux(**FLUX2),
            lambda: inputs("flux") | patched(**FLUX_PATCHES) | control(72) | REFERENCE,
        ),
        "chroma": (chroma, lambda: chroma_inputs() | patched(**FLUX_PATCHES)),
        "chroma radiance": (radiance, lambda: chroma_inputs(3) | patched(**FLUX_PATCHES)),
        "hunyuan": (hunyuan, lambda: hunyuan_inputs() | patched(**FLUX_PATCHES)),
        "hunyuan3d": (
            hunyuan3d,
            lambda: (
                hunyuan3d_inputs() | {"timestep": TIMES} | patched(attn1_patch=everywhere, attn1_output_patch=all_of_it)
            ),
        ),
        "qwen": (qwen, lambda: qwen_inputs() | patched(attn1_patch=mixed)),
        "qwen, mask": (qwen, lambda: qwen_inputs() | text_mask | patched(attn1_patch=mixed)),
        "mage-flow": (mage_flow, lambda: mage_flow_inputs() | patched(attn1_patch=mixed)),
        "krea": (krea, lambda: krea_inputs() | patched(**FLUX_PATCHES)),
        "krea, keys added": (krea, lambda: krea_inputs() | patched(**references)),
        "wan": (wan, lambda: inputs("wan") | patched(**WAN_PATCHES)),
        "wan, image to video": (
            lambda: wan(model_type="i2v"),
            lambda: inputs("wan", height=6) | {"clip_fea": randn(2, 11, 1280)} | patched(**WAN_PATCHES),
        ),
        "wan vace": (
            lambda: wan_relative("model.VaceWanModel", vace_layers=2, vace_in_dim=8),
            lambda: inputs("wan") | VACE | patched(**WAN_PATCHES),
        ),
        "wan animate": (animate, lambda: animate_inputs() | patched(**WAN_PATCHES)),
        "wan sound to video": (sound_to_video, lambda: sound_inputs() | patched(**WAN_PATCHES)),
        "wan humo": (humo, lambda: humo_inputs() | patched(attn1_patch=behind_attention)),
        "wandancer": (dancer, lambda: dancer_inputs() | patched(**WAN_PATCHES)),
        "predict2": (
            predict2,
            lambda: predict2_inputs() | patched(attn1_patch=mixed, attn2_patch=queries_and_text, mlp_patch=on_a_grid),
        ),
        "anima": (
            lambda: predict2("anima.model.Anima"),
            lambda: predict2_inputs() | patched(attn1_patch=mixed, attn2_patch=queries_and_text),
        ),
    }
