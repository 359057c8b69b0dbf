"""The kernel by which `compiler` finds out whether Triton works; only that module imports this one."""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _double(x_N, N: tl.constexpr):
    place_N = tl.arange(0, N)
    tl.store(x_N + place_N, 2 * tl.load(x_N + place_N))


def fault(device: torch.device) -> str:
    """Doubles a tensor on `device`. Says so if the numbers are wrong, else returns "". Raises what Triton raises."""
    x_N = torch.arange(16, dtype=torch.float32, device=device)
    with torch.cuda.device(device):
        _double[(1,)](x_N, 16)
    right = torch.equal(x_N.cpu(), 2 * torch.arange(16, dtype=torch.float32))
    return "" if right else "its kernels compute wrong numbers"
