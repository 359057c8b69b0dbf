"""The compared implementations of one attention over sharded tokens: ours, diffusers' and yunchang's.

Each is f(q, k, v) -> out, all (B, L, H, D). Only operations that a library cannot run on a CPU are replaced, by the
nearest torch operation:
diffusers 0.42.1: none. `dispatch_attention_fn` with its "native" backend and a ContextParallelConfig, as its models
    call it; the all-to-alls and the layout are its own.
yunchang 0.6.4: `ring_pytorch_attn_func` calls aten._scaled_dot_product_flash_attention, which exists for CUDA only; it
    gets the CPU kernel of the same name, with the same results (output, log-sum-exp). The ring, its RingComm and the
    merging are its own. Its "math" kernel would run, but gives a zero log-sum-exp and so a wrong result.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import Tag
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Job:
    """A job for `AttentionHandler`: `calls` attentions of each way on (B, N, H, D) tensors of the named torch dtype."""

    shape: tuple[int, int, int, int]
    dtype: str
    calls: int
    ways: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The job as JSON."""
        return json.dumps(asdict(self)).encode()


Way = Callable[[Tensor, Tensor, Tensor], Tensor]
Maker = Callable[[int, int, Job, ExitStack], Way]
"""Makes a way from rank, world, the job, and an exit stack that is closed after the last attention."""


def attention_pytorch(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, skip_reshape: bool = False, **kwargs: Any
) -> Tensor:
    """Torch's attention with the signature of ComfyUI's function of this name."""
    if not skip_reshape:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out_BHLD = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out_BHLD if kwargs.get("skip_output_reshape") else out_BHLD.transpose(1, 2).flatten(2)


def _ours(exchange: str, codec: str | None) -> Maker:
    def make(rank: int, world: int, job: Job, stack: ExitStack) -> Way:
        batch, tokens, heads, _ = job.shape
        config = CompressionConfig(mode="codec", codec=codec) if codec else CompressionConfig(mode="off")
        ledger = Ledger()
        wide, alone = Axis("wide", tuple(range(world)), rank, dist.group.WORLD), Axis("alone", (rank,), 0)
        attention = SequenceAttention(
            ulysses=wide if exchange == "ulysses" else alone,
            ring=alone if exchange == "ulysses" else wide,
            ring_exchange="all_gather" if exchange == "ulysses" else exchange,
            wire=make_wire(config, ledger, job.calls),
            ledger=ledger,
        )
        stack.enter_context(attention)
        tag = Tag("bench", "kv", tuple((f"cond {b}", 0) for b in range(batch)))
        layout = TokenLayout((tokens,), world)

        def attend(*qkv_BLHD: Tensor) -> Tensor:
            given = (x.transpose(1, 2) for x in qkv_BLHD)
            out = attention(attention_pytorch, *given, heads, layout=layout, tag=tag, skip_reshape=True)
            return out.unflatten(2, (heads, -1))

        return attend

    return make


def _diffusers_ulysses(rank: int, world: int, job: Job, stack: ExitStack) -> Way:
    from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    if job.shape[2] % world:
        raise Unsupported(f"diffusers cannot give {job.shape[2]} heads to {world} ranks")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1, world), mesh_dim_names=("ring", "ulysses"))
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=world))
    config.setup(rank, world, torch.device("cpu"), mesh=mesh)
    return lambda q, k, v: dispatch_attention_fn(q, k, v, backend="native", parallel_config=config)


def _yunchang_ring(rank: int, world: int, job: Job, stack: ExitStack) -> Way:
    from yunchang.ring import ring_pytorch_attn

    def forward(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool) -> tuple[Tensor, Tensor]:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = flash(q, k, v, 0.0, causal, scale=softmax_scale)
        return out.transpose(1, 2), lse.to(q.dtype)  # yunchang casts, too

    ring_pytorch_attn.pytorch_attn_forward = forward
    return lambda q, k, v: ring_pytorch_attn.ring_pytorch_attn_func(q, k, v, group=dist.group.WORLD)


WAYS = MappingProxyType(
    {
        "diffusers, ulysses": _diffusers_ulysses,
        "yunchang, ring": _yunchang_ring,
        **{
            f"ours, {exchange}, {words}": _ours(exchange, codec)
            for words, codec in (("exact", None), ("2 bit", "2bit"))
            for exchange in ("ulysses", "ring", "all_gather")
        },
    }
)
