"""What the simulated card runs in place of torch's attention kernels for CUDA, with their requirements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _efficient_takes(params: Any) -> bool:
    return params.query.is_cuda and params.query.dtype != torch.float64


def _flash_takes(params: Any) -> bool:
    return _efficient_takes(params) and params.attn_mask is None and params.query.dtype != torch.float32


def _efficient_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, with_lse: bool, *_: Any, scale: float
) -> tuple[Tensor, Tensor]:
    """In place of CUDA's memory-efficient attention: refuses what it refuses, and pads the log-sum-exp as it does."""
    if bias is not None:
        rows_begin = [*bias.stride()[:-1], bias.data_ptr() // bias.element_size()]
        aligned = bias.stride(-1) == 1 and not any(begin % 8 for begin in rows_begin)
        if bias.dtype != q.dtype or bias.shape != (*q.shape[:3], k.shape[2]) or not aligned:
            raise RuntimeError(f"attn_bias {bias.dtype} {tuple(bias.shape)} {bias.stride()} is not correctly aligned")
        bias = bias.float()
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)
    return out, torch.nn.functional.pad(lse, (0, -lse.shape[2] % 32), value=torch.inf)


def _flash_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, scale: float) -> tuple[Tensor, Tensor]:
    """In place of CUDA's flash attention."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)


KERNELS = {
    "_scaled_dot_product_flash_attention": _flash_attention,
    "_scaled_dot_product_efficient_attention": _efficient_attention,
}
"""What runs in place of kernels that torch has for CUDA only."""
TAKES = {"can_use_flash_attention": _flash_takes, "can_use_efficient_attention": _efficient_takes}
"""What stands for functions of torch.backends.cuda."""
