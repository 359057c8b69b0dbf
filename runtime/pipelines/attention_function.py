"""torch's scaled_dot_product_attention, called like ComfyUI's attention functions, as sequence-parallel attention does.

B batch, H heads, L queries, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def called_like_comfyui(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`attend`, which is torch's function or stands in for it, with the arguments of ComfyUI's attention functions."""

    def scaled_dot_product_attention(
        q_BHLD: Tensor,
        k_BHLD: Tensor,
        v_BHLD: Tensor,
        heads: int,
        *,
        mask: Tensor | None,
        skip_reshape: bool,
        skip_output_reshape: bool,
        scale: float | None,
    ) -> Tensor:
        assert skip_reshape, "the caller has (B, H, L, D)"
        grouped = k_BHLD.shape[1] != heads
        out_BHLD = attend(q_BHLD, k_BHLD, v_BHLD, attn_mask=mask, scale=scale, enable_gqa=grouped)
        return out_BHLD if skip_output_reshape else out_BHLD.transpose(1, 2).flatten(2)

    return scaled_dot_product_attention
