"""OmniGen2 and Boogu, tiny: builders, inputs, and cases of one forward each."""

from __future__ import annotations

from .base import HEADS, TIMES, build, randn
from .changes import after, changed


def omnigen(kind="omnigen.omnigen2.OmniGen2Transformer2DModel", text_name="text_feat_dim", **changes):
    """Two layers of OmniGen2, and one of each refiner."""
    arguments = {
        "in_channels": 4, "hidden_size": 12 * HEADS, "num_layers": 2, "num_refiner_layers": 1,
        "num_attention_heads": 2 * HEADS, "num_kv_heads": HEADS, "multiple_of": 8, "axes_dim_rope": (2, 2, 2),
        text_name: 20,
    }  # fmt: skip
    return build(f"comfy.ldm.{kind}", **arguments | changes)


def boogu():
    """As OmniGen2, with a double block in front."""
    return omnigen("boogu.model.BooguTransformer2DModel", "instruction_feat_dim", num_double_stream_layers=1)


def omnigen_inputs():
    """A picture of 15 tokens and a text."""
    return {"x": randn(2, 4, 10, 6), "timesteps": TIMES, "context": randn(2, 7, 20), "num_tokens": 7}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    references = {"ref_latents": [randn(2, 4, 4, 6, seed=i) for i in (5, 6)]}
    return {
        "omnigen2": (omnigen, omnigen_inputs()),
        "omnigen2, reference images": (omnigen, omnigen_inputs() | references),
        "boogu": (boogu, omnigen_inputs()),
        "boogu, reference images": (boogu, omnigen_inputs() | references),
        "omnigen2, a block changed": (changed(omnigen, after("layers.0")), omnigen_inputs()),
        "boogu, blocks changed": (
            changed(boogu, lambda module: [after(f"{kind}_stream_layers.0")(module) for kind in ("double", "single")]),
            omnigen_inputs(),
        ),
    }
