"""Checks attention with log-sum-exp against float64, and records which of torch's kernels ran."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

from gpu.checks.card import SIMULATED, the_card

LIMITS = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}


def run(tell: Callable) -> None:
    import torch
    from compact_parallel.runtime.attention.local import attention_with_lse

    kernels: dict[str, str] = {}
    wrong: dict[str, list[float]] = {}
    worst = dict.fromkeys(LIMITS, 0.0)
    tokens, keys = (37, 61) if SIMULATED else (333, 517)
    for dtype, dim, kv_heads, mask in product(LIMITS, (40, 64, 128, 256), (8, 2), ("none", "bool", "additive")):
        torch.manual_seed(0)
        q = torch.randn(2, 8, tokens, dim).to(getattr(torch, dtype))
        k, v = (torch.randn(2, kv_heads, keys, dim).to(getattr(torch, dtype)) for _ in range(2))
        given = {
            "none": None,
            "bool": torch.rand(2, 1, tokens, keys) > 0.4,
            "additive": torch.randn(1, 8, 1, keys).to(getattr(torch, dtype)),
        }[mask]
        with the_card() as card:
            q, k, v = card.put([q, k, v])
            given = given if given is None else card.put(given)
            wide_k, wide_v = (x.repeat_interleave(8 // kv_heads, dim=1).double() for x in (k, v))
            scores = q.double() @ wide_k.transpose(-1, -2) * dim**-0.5
            if given is not None:
                scores = scores.masked_fill(~given, -torch.inf) if given.dtype == torch.bool else scores + given
            attend = partial(attention_with_lse, q, k, v, dim**-0.5, given)
            pairs = zip(attend(), (scores.softmax(-1) @ wide_v, scores.logsumexp(-1)))
            errors = [float((x.double() - y).norm() / y.norm()) for x, y in pairs]
            names = [name for name in card.operations_of(attend) if "_attention" in name]
        case = f"{dtype} {dim} kv {kv_heads} mask {mask}"
        kernels[case] = names[0].removeprefix("_scaled_dot_product_") if names else "plain"
        worst[dtype] = max(worst[dtype], *errors)
        if not (errors[0] < LIMITS[dtype] and errors[1] < 1e-3):
            wrong[case] = errors
    used: dict[str, list[str]] = {}
    for case, kernel in kernels.items():
        used.setdefault(kernel, []).append(case)
    tell(worst=worst, wrong=wrong, kernels={name: f"{len(cases)}, {cases[0]} ..." for name, cases in used.items()})
