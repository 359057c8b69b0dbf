"""What xfuser takes for granted and a host without CUDA lacks: its device, its sequence parallelism, a CUDA kernel.

Each shim is put in place only where it is needed, and for one run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ...attention.local import attention_with_lse
from ...attention.unsupported import Unsupported
from .loading import load, part, replace

_DEVICES = ("_is_cuda", "_is_hip", "_is_musa", "_is_mps", "_is_npu")
_HAS_SEQUENCE_PARALLELISM = "HAS_LONG_CTX_ATTN"


@contextmanager
def shims(device: torch.device, sequence: int) -> Iterator[None]:
    """Makes xfuser run on `device`, with tokens split `sequence` ways, for the block's duration.

    Raises Unsupported if the installed xfuser lacks a part that has to be replaced.
    """
    with ExitStack() as stack:
        if device.type == "cpu":
            _on_cpu(stack)
        if sequence > 1:
            _sequence_parallelism(stack)
        yield


def _on_cpu(stack: ExitStack) -> None:
    """xfuser asks how PyTorch was built, not where the model is; it then wants that device and waits for it."""
    envs = load("xfuser.envs")
    for name in _DEVICES:
        replace(stack, envs, name, _no)
    replace(stack, load("xfuser.core.distributed.group_coordinator"), "synchronize", _nothing_to_wait_for)
    backends = load("xfuser.core.distributed.attention_backend")
    functions, names = part(backends, "ATTENTION_FUNCTION_REGISTRY"), part(backends, "AttentionBackendType")
    flash = part(names, "SDPA_FLASH")
    stack.callback(functions.__setitem__, flash, functions[flash])
    functions[flash] = _attention


def _sequence_parallelism(stack: ExitStack) -> None:
    """xfuser switches sequence parallelism off where CUDA is missing, in each module by itself."""
    groups = part(load("yunchang.globals"), "PROCESS_GROUP")
    for name in ("xfuser.model_executor.layers.usp", "xfuser.core.distributed.fp8_comms"):
        if part(load(name), "PROCESS_GROUP") is None:
            replace(stack, load(name), "PROCESS_GROUP", groups)
    part(load("xfuser.core.distributed.parallel_state"), _HAS_SEQUENCE_PARALLELISM)
    for name, module in list(sys.modules.items()):
        if name.startswith("xfuser.") and getattr(module, _HAS_SEQUENCE_PARALLELISM, None) is False:
            replace(stack, module, _HAS_SEQUENCE_PARALLELISM, True)


def _no() -> bool:
    return False


def _nothing_to_wait_for(*_: Any) -> None:
    """Stands for torch.cuda.synchronize: on a CPU nothing is ever under way."""


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    is_causal: bool,
    attention_kwargs: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Stands for a CUDA kernel. query (B, H, L, D), key and value (B, H, N, D); also gives the log-sum-exp (B, H, L).

    xfuser's ring merges partial results by it; torch's plain attention, which it offers too, returns zeros instead.
    """
    if dropout_p or is_causal:
        raise Unsupported(
            "xDiT asks for attention with dropout or a causal mask, which CPU workers have not; use GPUs."
        )
    return attention_with_lse(query, key, value, query.shape[-1] ** -0.5)
