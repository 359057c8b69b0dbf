"""HiDream, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn


def hidream():
    """Two double and two single blocks, with experts."""
    return build(
        "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel", patch_size=2, in_channels=4, num_layers=2,
        num_single_layers=2, attention_head_dim=12, num_attention_heads=HEADS, caption_channels=[20, 24],
        text_emb_dim=16, num_routed_experts=2, num_activated_experts=1, axes_dims_rope=(4, 4, 4),
        max_resolution=(32, 32), llama_layers=[0, 1, 2, 2],
    )  # fmt: skip


def hidream_inputs():
    """A picture of 15 tokens, T5's text and three layers of Llama's."""
    llama = randn(2, 3, 8, 24)
    given = {"x": randn(2, 4, 10, 6), "t": TIMES * 1000, "y": randn(2, 16), "context": randn(2, 7, 20)}
    return given | {"encoder_hidden_states_llama3": llama}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    return {
        "hidream": (hidream, hidream_inputs()),
        "hidream, edited image": (hidream, hidream_inputs() | {"image_cond": randn(2, 4, 10, 6, seed=8)}),
    }
