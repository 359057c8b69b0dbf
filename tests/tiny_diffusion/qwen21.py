"""Qwen-Image 2.1, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .patches import surrounded
from .presence import FAMILIES, where_present


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


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return where_present(
        FAMILIES["Qwen-Image 2.1"],
        {
            "qwen21": (qwen21, qwen21_inputs()),
            "qwen21, two references": (qwen21, qwen21_inputs(2)),
            "qwen21, keys kept": (lambda: qwen21(keeps=True), qwen21_inputs(1)),
            "qwen21, first step": (lambda: qwen21(keeps=True, first_step=True), qwen21_inputs(1)),
            "qwen21, around a block": (qwen21, qwen21_inputs(1) | surrounded("single_block", "img")),
        },
    )
