"""Times one attention, call after call, in the workers: ours and the two libraries on the same tensors.

Legend: B batch, N tokens of all ranks, L tokens of one rank, H heads, D head dim, P ranks.
"""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.pool.orders import Orders
from compact_parallel.runtime.pool.worker import JobControl
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .attention_ways import WAYS, Job, Way

ANGLE = 0.15
NOISE = 0.05
"""From call to call Q, K and V turn by ANGLE radians and get fresh noise, a change of 17 % as between two steps."""
WARM_UP = 3
"""First calls that the median leaves out: streams warm up in two calls, allocators and sockets in one."""


class Tensors:
    """Q, K and V of every call, equal on all ranks: vectors that turn in a plane, plus noise, with unequal scales of
    tokens and channels."""

    def __init__(self, job: Job) -> None:
        self._dtype = getattr(torch, job.dtype)
        self._shape = tuple(job.shape)
        generator = torch.Generator().manual_seed(0)
        _, tokens, heads, dim = self._shape
        of_token = torch.randn(1, tokens, 1, 1, generator=generator).mul(0.3).exp()
        of_channel = torch.randn(1, 1, heads, dim, generator=generator).mul(0.5).exp()
        plane = torch.randn(3, 2, *self._shape, generator=generator)
        self._plane = plane * (of_token * of_channel)[None, None]

    def at(self, call: int) -> list[Tensor]:
        """Q, K, V (B, N, H, D) of a call."""
        generator = torch.Generator().manual_seed(1000 + call)
        noise = torch.randn(self._shape, generator=generator) * NOISE
        turned = math.cos(ANGLE * call) * self._plane[:, 0] + math.sin(ANGLE * call) * self._plane[:, 1]
        return [(x + noise).to(self._dtype) for x in turned]


def whole(q_BNHD: Tensor, k_BNHD: Tensor, v_BNHD: Tensor) -> Tensor:
    """Attention over all tokens on one rank, (B, N, H, D)."""
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q_BNHD, k_BNHD, v_BNHD))).transpose(1, 2)


class AttentionHandler:
    """A handler of the pool (see pool.worker.Handler) that runs `Job`s."""

    def __init__(self, orders: Orders) -> None:
        self._rank, self._world = orders.rank, orders.world
        sys.path.append(orders.options["peers"])

    def prepare(self, payload: bytes) -> Job:
        """Decodes the job from its JSON."""
        return Job(**json.loads(payload))

    def run(self, job: Job, control: JobControl) -> tuple[bytes, dict]:
        """{way: {"ms": [milliseconds of the slowest rank, per call], "error": of the last output}}, or
        {way: {"problem": why the way is not available}}."""
        with torch.inference_mode():
            found = {way: self._times(way, job, Tensors(job)) for way in job.ways}
        return json.dumps(found).encode(), {}

    def park(self, nbytes: int | None = None) -> int:
        """0 bytes: the handler holds nothing on a device."""
        return 0

    def about(self) -> dict:
        """Empty: there is nothing to show."""
        return {}

    def _times(self, way: str, job: Job, tensors: Tensors) -> dict[str, Any]:
        mine = slice(self._rank * job.shape[1] // self._world, (self._rank + 1) * job.shape[1] // self._world)
        with ExitStack() as stack:
            try:
                return self._timed(WAYS[way](self._rank, self._world, job, stack), job, tensors, mine)
            except (ImportError, Unsupported) as error:  # raised on all ranks alike, before anything is sent
                return {"problem": f"not available: {error}".split(", which")[0]}

    def _timed(self, attend: Way, job: Job, tensors: Tensors, mine: slice) -> dict[str, Any]:
        seconds = torch.zeros(job.calls, dtype=torch.float64)
        for call in range(job.calls):
            chunks = [x_BNHD[:, mine].contiguous() for x_BNHD in tensors.at(call)]
            dist.barrier()
            started = time.perf_counter()
            out_BLHD = attend(*chunks)
            seconds[call] = time.perf_counter() - started
        expected_BLHD = whole(chunks[0], *tensors.at(job.calls - 1)[1:]).float()
        wrong = (out_BLHD.float() - expected_BLHD).norm() / expected_BLHD.norm()
        worst = torch.cat([seconds, wrong.double()[None]])
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        return {"ms": (1e3 * worst[:-1]).tolist(), "error": float(worst[-1])}
