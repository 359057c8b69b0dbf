"""Kandinsky 5 and 6, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed
from .patches import surrounded
from .presence import FAMILIES, where_present


def kandinsky():
    """Two visual blocks and a text block."""
    return build(
        "comfy.ldm.kandinsky5.model.Kandinsky5", in_visual_dim=4, out_visual_dim=4, in_text_dim=20, in_text_dim2=16,
        time_dim=32, model_dim=12 * HEADS, ff_dim=96, visual_embed_dim=16, num_text_blocks=1, num_visual_blocks=2,
        axes_dims=(4, 4, 4),
    )  # fmt: skip


def kandinsky_inputs():
    """Three frames of 15 tokens, a text, and what is known of it as a whole."""
    return {"x": randn(2, 4, 3, 10, 6), "timestep": TIMES, "context": randn(2, 7, 20), "y": randn(2, 16)}


def kandinsky6():
    return build(
        FAMILIES["Kandinsky 6"], in_visual_dim=4, out_visual_dim=4, in_audio_dim=5, in_text_dim=20, in_text_dim2=16,
        time_dim=32, model_dim=16 * HEADS, ff_dim=64, visual_embed_dim=36, time_dim_a=32, model_dim_a=48, ff_dim_a=64,
        head_dim_a=16, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip


def kandinsky6_inputs():
    video_and_sound = [randn(2, 4, 3, 6, 4), randn(2, 7, 5)]
    return {"x": video_and_sound, "timestep": TIMES * 1000, "context": randn(2, 6, 20), "y": randn(2, 16)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    found = {
        "kandinsky": (kandinsky, kandinsky_inputs()),
        "kandinsky, a block changed": (changed(kandinsky, after("visual_transformer_blocks.1")), kandinsky_inputs()),
    }
    return found | where_present(
        FAMILIES["Kandinsky 6"],
        {
            "kandinsky6": (kandinsky6, kandinsky6_inputs()),
            "kandinsky6, reference tail": (kandinsky6, kandinsky6_inputs() | {"k6_reference_tail": True}),
            "kandinsky6, around a block": (kandinsky6, kandinsky6_inputs() | surrounded("double_block", "visual")),
        },
    )
