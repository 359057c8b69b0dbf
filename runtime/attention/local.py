"""Attention on one device that also returns its log-sum-exp, so that partial results can be merged.

B batch, H heads, L queries, N keys, D head dim. The kernels are torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.backends import cuda

_SCORES_PER_BLOCK = 1 << 26
_MASK_ALIGNMENT = 16
"""The efficient kernel reads rows of a mask that begin at multiples of 8 or 16 values, as torch's own callers know."""
_CPU_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def attention_with_lse(
    q_BHLD: Tensor, k_BHND: Tensor, v_BHND: Tensor, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + mask) v and the log of the softmax's denominator.

    Args:
        q_BHLD: queries; k_BHND, v_BHND: keys and values, of which there may be fewer heads (a divisor of H).
        mask: bool (True takes part) or additive, broadcasting to (B, H, L, N).
    Returns:
        out (B, H, L, D) in the dtype of q, lse (B, H, L) in float32 (float64 for float64).
        With no keys out is 0 and lse is -inf. A query whose keys are all masked gets a finite, very negative lse.
    """
    heads = q_BHLD.shape[1]
    if k_BHND.shape[1] != heads:
        k_BHND, v_BHND = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k_BHND, v_BHND))
    if q_BHLD.numel() == 0 or k_BHND.numel() == 0:
        lse = torch.full(q_BHLD.shape[:3], -torch.inf, dtype=_wide(q_BHLD.dtype), device=q_BHLD.device)
        return q_BHLD.new_zeros(*q_BHLD.shape[:3], v_BHND.shape[3]), lse
    given = q_BHLD, k_BHND, v_BHND, scale, mask
    found = _fused_attention(*given) if q_BHLD.shape[3] == v_BHND.shape[3] else None
    return _plain_attention(*given) if found is None else found


def _fused_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """`attention_with_lse` by a kernel of torch's; None where none takes these tensors."""
    aten = torch.ops.aten
    if q.device.type == "cpu" and q.dtype in _CPU_DTYPES:
        added = _additive(mask, _wide(q.dtype), k.shape[2])
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=added, scale=scale)
    if q.device.type != "cuda":
        return None
    added = _additive(mask, q.dtype, k.shape[2])
    if added is not None:
        added = added.expand(*q.shape[:3], k.shape[2])
    params = cuda.SDPAParams(q, k, v, added, 0.0, False, False)
    if added is None and q.shape[3] % 8 == 0 and cuda.can_use_flash_attention(params):
        out, lse = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, scale=scale)[:2]
        return out, lse
    if cuda.can_use_efficient_attention(params):
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, added, True, 0.0, False, scale=scale)[:2]
        return out, lse[:, :, : q.shape[2]]
    return None


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """`attention_with_lse` in plain float32 (float64 for float64), some queries at a time to bound the memory."""
    wide = _wide(q.dtype)
    k_wide, v_wide, mask = k.to(wide), v.to(wide), _additive(mask, wide, k.shape[2])
    rows = max(1, _SCORES_PER_BLOCK // (q.shape[0] * q.shape[1] * k.shape[2]))
    outs, lses = [], []
    for start in range(0, q.shape[2], rows):
        scores = (q[:, :, start : start + rows].to(wide) * scale) @ k_wide.transpose(-1, -2)
        if mask is not None:
            scores += mask if mask.shape[-2] == 1 else mask[..., start : start + rows, :]
        lse = torch.logsumexp(scores, dim=-1)
        outs.append((torch.exp_(scores - lse[..., None]) @ v_wide).to(q.dtype))
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _additive(mask: Tensor | None, dtype: torch.dtype, keys: int) -> Tensor | None:
    """The mask as finite numbers to add: a row of -inf would turn a shard that is masked as a whole into NaN.

    Its rows, one value per key, begin at multiples of _MASK_ALIGNMENT in memory.
    """
    if mask is None:
        return None
    lowest = torch.finfo(dtype).min / 4
    room = -(-keys // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
    added = torch.zeros(*mask.shape[:-1], room, dtype=dtype, device=mask.device)[..., :keys]
    if mask.dtype == torch.bool:
        return added.masked_fill_(~mask, lowest)
    return added.copy_(mask).clamp_(min=lowest)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from the attention over each (online softmax, Milakov & Gimelshein 2018).

    out, more (B, H, L, D), lse, more_lse (B, H, L); at least one lse of each query finite. `out` in float32 or wider.
    """
    both = torch.logaddexp(lse, more_lse)
    return out * torch.exp(lse - both)[..., None] + more * torch.exp(more_lse - both)[..., None], both
