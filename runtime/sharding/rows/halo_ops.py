"""Convolutions and norms of local rows that equal, within rounding, those of all rows.

A convolution gets a halo of rows from the neighbours; group norm and torch.norm combine the statistics of all ranks. A
module casts and patches its weights before it calls torch. So we intercept the call to torch while such a module runs,
and leave ComfyUI's handling of weights as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .row_exchange import RowExchange
from .row_layout import RowLayout

Sizes = int | tuple[int, ...]


class HaloOps(TorchFunctionMode):
    """While active, torch's convolutions and group norm map local rows to local rows; torch.norm is over all rows.

    `rows` is the layout of their inputs, `below` that of the output of a convolution of stride 2. `calls` counts the
    calls that were intercepted, with those that needed no exchange. Raises refuse(what) for an input without exactly
    the local rows.
    """

    def __init__(
        self, exchange: RowExchange, rows: RowLayout, below: RowLayout | None, refuse: Callable[[str], Exception]
    ) -> None:
        super().__init__()
        self._exchange, self._rows, self._below, self._refuse = exchange, rows, below, refuse
        self.calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.conv2d, torch.conv3d):
            return self._convolution(func, *args, **kwargs)
        if func is functional.group_norm:
            return self._group_norm(*args, **kwargs)
        if func is torch.norm:
            return self._norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(
        self, func: Callable[..., Tensor], x_BCRW: Tensor, weight: Tensor, bias: Tensor | None = None,
        stride: Sizes = 1, padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        self._count(x_BCRW)
        step, pad, spread = _of_rows(stride), _of_rows(padding), _of_rows(dilation)
        reach = spread * (weight.shape[-2] - 1) + 1
        if (step, pad, reach) == (1, 0, 1):
            return func(x_BCRW, weight, bias, stride, padding, dilation, groups)
        out = self._rows if step == 1 else self._below
        spans = [out.rows(shard) for shard in range(out.shards)]
        needs = [(first * step - pad, (last - 1) * step - pad + reach) for first, last in spans]
        x_BCRW = self._exchange.with_halos(x_BCRW, self._rows, needs)
        padding = (padding,) * (weight.ndim - 2) if isinstance(padding, int) else tuple(padding)
        return func(x_BCRW, weight, bias, stride, (*padding[:-2], 0, padding[-1]), dilation, groups)

    def _group_norm(
        self, x_BCRW: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        self._count(x_BCRW)
        wide = torch.float64 if x_BCRW.dtype == torch.float64 else torch.float32
        x_wide = x_BCRW.to(wide)
        local = torch.stack(torch.var_mean(x_wide.reshape(len(x_wide), num_groups, -1), dim=2, correction=0))
        var_PBG, mean_PBG = self._exchange.from_all(local).unbind(1)
        mean_BG, var_BG = combined(mean_PBG, var_PBG, _shares(self._rows, wide, local.device))
        scale_BC = torch.rsqrt(var_BG + eps).repeat_interleave(x_BCRW.shape[1] // num_groups, dim=1)
        mean_BC = mean_BG.repeat_interleave(x_BCRW.shape[1] // num_groups, dim=1)
        scale_BC = scale_BC if weight is None else scale_BC * weight.to(wide)
        shift_BC = -mean_BC * scale_BC if bias is None else bias.to(wide) - mean_BC * scale_BC
        scale, shift = (x.reshape(*x.shape, *[1] * (x_BCRW.ndim - 2)) for x in (scale_BC, shift_BC))
        return torch.addcmul(shift, x_wide, scale).to(x_BCRW.dtype)

    def _norm(self, x_BRWC: Tensor, p: float, dim: tuple[int, int], keepdim: bool, **more: None) -> Tensor:
        self._count(x_BRWC.movedim(-1, 1))
        wide = torch.promote_types(x_BRWC.dtype, torch.float32)
        local = torch.norm(x_BRWC, p=p, dim=dim, keepdim=keepdim, dtype=wide)
        return self._exchange.from_all(local).norm(p=p, dim=0).to(x_BRWC.dtype)

    def _count(self, x_BCRW: Tensor) -> None:
        self.calls += 1
        local = self._rows.chunk(self._exchange.axis.index)
        if x_BCRW.shape[-2] != local:
            raise self._refuse(
                f"a patch that makes a feature map of {x_BCRW.shape[-2]} rows where {local} were expected"
            )


def combined(mean_P: Tensor, var_P: Tensor, share_P: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of all values from those of their parts (P, ...), which hold the fractions `share_P` of them.

    Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979. Unlike the
    mean of squares minus the squared mean, it loses no precision where the mean is large.
    """
    share_P = share_P.reshape(-1, *[1] * (mean_P.ndim - 1))
    mean = (share_P * mean_P).sum(0)
    return mean, (share_P * (var_P + (mean_P - mean) ** 2)).sum(0)


@lru_cache(maxsize=64)
def _shares(rows: RowLayout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The fraction of the rows in each shard (P,)."""
    shares = [rows.chunk(shard) / rows.height for shard in range(rows.shards)]
    return torch.tensor(shares, dtype=dtype, device=device)


def _of_rows(size: Sizes) -> int:
    return size if isinstance(size, int) else size[-2]
