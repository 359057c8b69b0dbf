"""Checks attention with log-sum-exp against float64, and records which of torch's kernels ran."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

LIMITS = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}


def run(tell: Callable) -> None:
    import torch
    from compact_parallel.runtime.attention.local import attention_with_lse
    from device import DEVICE

    activity = torch.profiler.ProfilerActivity
    kernels: dict[str, str] = {}
    wrong: dict[str, list[float]] = {}
    worst = dict.fromkeys(LIMITS, 0.0)
    for dtype, dim, kv_heads, mask in product(LIMITS, (40, 64, 128, 256), (8, 2), ("none", "bool", "additive")):
        torch.manual_seed(0)
        q = torch.randn(2, 8, 333, dim, device=DEVICE, dtype=getattr(torch, dtype))
        k, v = (torch.randn(2, kv_heads, 517, dim, device=DEVICE, dtype=getattr(torch, dtype)) for _ in range(2))
        given = {
            "none": None,
            "bool": torch.rand(2, 1, 333, 517, device=DEVICE) > 0.4,
            "additive": torch.randn(1, 8, 1, 517, device=DEVICE),
        }[mask]
        wide_k, wide_v = (x.repeat_interleave(8 // kv_heads, dim=1).double() for x in (k, v))
        scores = q.double() @ wide_k.transpose(-1, -2) * dim**-0.5
        if given is not None:
            scores = scores.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else scores + given
        with torch.profiler.profile(activities=[activity.CPU]) as profile:
            out, lse = attention_with_lse(q, k, v, dim**-0.5, given)
        names = [event.key for event in profile.key_averages() if "_attention" in event.key]
        case = f"{dtype} {dim} kv {kv_heads} mask {mask}"
        kernels[case] = names[0].removeprefix("aten::_scaled_dot_product_") if names else "plain"
        expected = scores.softmax(-1) @ wide_v
        errors = [float((x.double() - y).norm() / y.norm()) for x, y in ((out, expected), (lse, scores.logsumexp(-1)))]
        worst[dtype] = max(worst[dtype], *errors)
        if not (errors[0] < LIMITS[dtype] and errors[1] < 1e-3):
            wrong[case] = errors
    used: dict[str, list[str]] = {}
    for case, kernel in kernels.items():
        used.setdefault(kernel, []).append(case)
    tell(worst=worst, wrong=wrong, kernels={name: f"{len(cases)}, {cases[0]} ..." for name, cases in used.items()})
