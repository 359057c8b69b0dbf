"""Families that came to ComfyUI after 0.30, where the installed one has them."""

from __future__ import annotations

import importlib

import torch

from .base import HEADS, build, randn, use_comfyui
from .image import TIMES
from .video import ltx_inputs

# By the family of the plan: the class.
FAMILIES = {
    "Qwen-Image 2.1": "comfy.ldm.qwen_image21.model.QwenImage21Transformer2DModel",
    "Kandinsky 6": "comfy.ldm.kandinsky6.model.Kandinsky6NativeAVDiT",
    "Wan-Animate 2": "comfy.ldm.wan.model_animate2.WanAnimate2Model",
}


IMAGE_OF_LTX = "comfy.ldm.lightricks.model.LTXVImageModel"


def absent():
    """The classes that the installed ComfyUI does not have."""
    use_comfyui()
    return {path for path in (*FAMILIES.values(), IMAGE_OF_LTX) if not _has(path)}


def families():
    """The families with a plan that the installed ComfyUI has."""
    from compact_parallel.runtime.sharding.plans import PLANS

    return {plan.family for plan in PLANS} - {family for family, path in FAMILIES.items() if path in absent()}


def _has(path):
    module, _, name = path.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if module != error.name and not module.startswith(f"{error.name}."):
            raise  # something else than the family is missing
        return False


class _Plenty:
    """Stands for the patcher that Qwen-Image 2.1 asks for free memory before it keeps the text's keys."""

    def get_free_memory(self, device):
        return 1 << 40


def _forgets():
    """What Qwen-Image 2.1 keeps the text's keys in, filled by each forward afresh."""
    from comfy.ldm.wan.model_animate2 import PoseBranchCache

    class Forgets(PoseBranchCache):
        def select(self, key, create=True):
            self.slots = []
            return super().select(key, create)

    return Forgets(store_device="cpu")


def qwen21(keeps=False, first_step=False):
    module = build(
        FAMILIES["Qwen-Image 2.1"], in_channels=8, out_channels=8, num_layers=2, attention_head_dim=16,
        num_attention_heads=HEADS, context_in_dim=20, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    if keeps:
        module.current_patcher = _Plenty()
        module.reset_prefix_cache(True)
        module.prefix_cache = _forgets() if first_step else None
    return module


def qwen21_inputs(references=0):
    given = {"x": randn(2, 8, 5, 3), "timestep": TIMES, "context": randn(2, 7, 20)}
    if references:
        given["ref_latents"] = [randn(2, 8, 4, 3, seed=9), randn(2, 8, 2, 5, seed=10)][:references]
        given["image_slots"] = [3, 5][:references]
    return given


def kandinsky6():
    return build(
        FAMILIES["Kandinsky 6"], in_visual_dim=4, out_visual_dim=4, in_audio_dim=5, in_text_dim=20, in_text_dim2=16,
        time_dim=32, model_dim=16 * HEADS, ff_dim=64, visual_embed_dim=36, time_dim_a=32, model_dim_a=48, ff_dim_a=64,
        head_dim_a=16, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip


def kandinsky6_inputs():
    video_and_sound = [randn(2, 4, 3, 6, 4), randn(2, 7, 5)]
    return {"x": video_and_sound, "timestep": TIMES * 1000, "context": randn(2, 6, 20), "y": randn(2, 16)}


def animate2():
    return build(
        FAMILIES["Wan-Animate 2"], in_dim=12, dim=16 * HEADS, ffn_dim=64, freq_dim=32, text_dim=20, out_dim=4,
        num_heads=HEADS, num_layers=2, text_len=8,
    )  # fmt: skip


def animate2_inputs(driven=True):
    given = {"x": randn(2, 12, 4, 6, 4), "timestep": TIMES * 1000, "context": randn(2, 8, 20)}
    given |= {"clip_fea": randn(2, 5, 1280), "reference_strength": 0.8, "pose_strength": 1.2}
    return given | ({"pose_latents": randn(2, 4, 3, 6, 4)} if driven else {})


def ltx_image():
    return build(
        IMAGE_OF_LTX, in_channels=8, cross_attention_dim=12 * HEADS, attention_head_dim=12, num_attention_heads=HEADS,
        caption_channels=20, num_layers=2,
    )  # fmt: skip


def _around(kind, tokens):
    """A patch that changes every token by its place, in front of the first block and behind it."""

    def changed(x):
        return x * torch.linspace(0.5, 1.5, x.shape[1])[None, :, None] + x.roll(1, 1) / 4

    def patch(args, extra):
        out = extra["original_block"](args | {tokens: changed(args[tokens])})
        return out | {tokens: changed(out[tokens])}

    return {"transformer_options": {"patches_replace": {"dit": {(kind, 0): patch}}}}


def cases():
    """{name: (build, keyword arguments of one forward)} of the families that are there."""
    found = {
        "qwen21": (qwen21, qwen21_inputs()),
        "qwen21, two references": (qwen21, qwen21_inputs(2)),
        "qwen21, keys kept": (lambda: qwen21(keeps=True), qwen21_inputs(1)),
        "qwen21, first step": (lambda: qwen21(keeps=True, first_step=True), qwen21_inputs(1)),
        "qwen21, around a block": (qwen21, qwen21_inputs(1) | _around("single_block", "img")),
        "kandinsky6": (kandinsky6, kandinsky6_inputs()),
        "kandinsky6, reference tail": (kandinsky6, kandinsky6_inputs() | {"k6_reference_tail": True}),
        "kandinsky6, around a block": (kandinsky6, kandinsky6_inputs() | _around("double_block", "visual")),
        "animate2": (animate2, animate2_inputs()),
        "animate2, around a block": (animate2, animate2_inputs() | _around("double_block", "img")),
        "animate2, not driven": (animate2, animate2_inputs(driven=False)),
        "ltx image": (ltx_image, ltx_inputs()),
    }
    classes = {"qwen21": FAMILIES["Qwen-Image 2.1"], "kandinsky6": FAMILIES["Kandinsky 6"]}
    classes |= {"animate2": FAMILIES["Wan-Animate 2"], "ltx image": IMAGE_OF_LTX}
    gone = absent()
    return {name: case for name, case in found.items() if classes[name.partition(",")[0]] not in gone}
