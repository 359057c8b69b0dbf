"""diffusers, as the library whose code the denoisers of pipelines run."""

from __future__ import annotations

from ..sharding.library import Library

_WAY_OUT = "set ulysses_degree and ring_degree to 1; cfg_degree, data_degree and step_degree do without them."

DIFFUSERS = Library(
    name="diffusers",
    version="diffusers",
    packages=("diffusers", "torch", "einops", "huggingface_hub", "peft"),
    attention="torch's scaled_dot_product_attention (the attention backend native of {})",
    own_code="The code of this node pack",
    way_out=_WAY_OUT,
    other_degrees=_WAY_OUT,
)
