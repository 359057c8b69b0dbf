"""The agreement of the ranks: before every model call they exchange a small header, so that all take the same path.

Headers are gathered from all ranks; each rank reads the same headers and so decides the same.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist

from ..pool.errors import AgreedError, Cancelled
from ..report.ledger import COMPUTE, Ledger

# Ranks on different devices may compute noise levels that differ in the last bits; a larger difference is divergence.
SIGMA_TOLERANCE = 1e-4
END_OF_RUN = -1


class Diverged(AgreedError):
    """The ranks are not at the same model call: something in the workflow decides differently on each of them."""


class NotFinite(AgreedError):
    """The model returned NaN or Inf on some rank."""


@dataclass(frozen=True)
class CallHeader:
    """One rank's state at a model call.

    `call` counts from 0; END_OF_RUN means the sampler has returned. `x_hash` is of the latent, `sigma` the noise level.
    `free_memory` (bytes) decides how many conditions ComfyUI batches. `finite`: the last call returned no NaN or Inf.
    """

    call: int
    sigma: float
    x_hash: int
    free_memory: int
    cancelled: bool
    finite: bool

    SIZE = 6

    def to_tensor(self) -> torch.Tensor:
        """(6,) int64; the noise level's float64 bits are read as an integer."""
        sigma_bits = struct.unpack("<q", struct.pack("<d", self.sigma))[0]
        values = [self.call, sigma_bits, self.x_hash, self.free_memory, int(self.cancelled), int(self.finite)]
        return torch.tensor(values, dtype=torch.int64)

    @classmethod
    def from_tensor(cls, row: torch.Tensor) -> CallHeader:
        """The inverse of `to_tensor`."""
        call, sigma_bits, x_hash, free_memory, cancelled, finite = row.tolist()
        sigma = struct.unpack("<d", struct.pack("<q", sigma_bits))[0]
        return cls(call, sigma, x_hash, free_memory, bool(cancelled), bool(finite))


def check(headers: Sequence[CallHeader], first_not_finite: str = "") -> None:
    """Raises Cancelled, NotFinite or Diverged if the headers say so; all ranks then raise the same class.

    `first_not_finite`: the name of the first tensor on a link in which this rank saw NaN or Inf, if any.
    """
    first = headers[0]
    if first.cancelled:
        raise Cancelled("The run was cancelled.")
    bad = [str(rank) for rank, header in enumerate(headers) if not header.finite]
    if bad:
        where = "the last call" if first.call == END_OF_RUN else f"call {first.call - 1}"
        place = f" It was first seen in {first_not_finite}." if first_not_finite else ""
        raise NotFinite(
            f"The model returned NaN or Inf at {where} on worker {', '.join(bad)}.{place} If the workflow gives a "
            "picture without Parallel Model, please report it; else check the model file, its precision and its "
            "patches."
        )
    for rank, header in enumerate(headers):
        same_sigma = math.isclose(header.sigma, first.sigma, rel_tol=SIGMA_TOLERANCE)
        if header.call != first.call or not same_sigma:
            raise Diverged(
                f"Worker {rank} is at {_place(header)} while worker 0 is at {_place(first)}: a patch or sampler "
                "of this workflow decides differently on each worker. Bypass it, or Parallel Model."
            )


def _place(header: CallHeader) -> str:
    return "the end of the run" if header.call == END_OF_RUN else f"call {header.call} (sigma {header.sigma:.4g})"


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, 1-D uint8, on its device."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


class Memory(Protocol):
    """The memory of a rank's device, as the model's host sees it when it forms batches."""

    def free(self, device: torch.device) -> int:
        """Bytes that are free now."""

    def pretend(self, free: int) -> None:
        """From now on the host is told that so many bytes are free, whatever `free` measures."""

    def holds(self, shape: Sequence[int], device: torch.device) -> bool:
        """Whether a model call with a latent of this shape fits, by what the host is told."""


class Agreement:
    """Makes the ranks of one job agree.

    As a wrapper around the model's prediction it does so at every call; with Step Reuse, once per round.
    """

    def __init__(self, memory: Memory, ledger: Ledger, cancelled: Callable[[], bool], first_call: int = 0) -> None:
        """`first_call`: how many calls of the run were evaluated in an earlier try."""
        self._memory = memory
        self._ledger = ledger
        self._cancelled = cancelled
        self._finite: torch.Tensor | bool = True
        """Whether the last output held no NaN or Inf; as a scalar on its device it is read with the next latent."""
        self._calls = first_call

    def __call__(
        self, executor: Callable, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """One model call: agree, then evaluate. `x` (B, ...) latent, `timestep` (B,) noise levels."""
        x, timestep, _ = self.agree(self._calls, x, timestep)
        self._calls += 1
        with self._ledger.phase("model"):
            denoised = executor(x, timestep, *args, **kwargs)
            self.seen(denoised)
        return denoised

    def agree(self, call: int, x: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Begins model call `call`: the `x` and `timestep` that all ranks use, rank 0's if any rank's differ.

        Also returns the noise level. Raises Cancelled, NotFinite or Diverged, on all ranks.
        """
        own = self._own(call, x, timestep)
        self._ledger.begin_call(call, own.sigma)
        headers = self._gather(own)
        # All ranks see the same hashes, so all take part in the broadcasts or none does.
        if any(header.x_hash != headers[0].x_hash for header in headers):
            x = _from_rank_0(x)
            self._ledger.corrected()
        if any(header.sigma != headers[0].sigma for header in headers):
            timestep = _from_rank_0(timestep)
        free_memory = min(header.free_memory for header in headers)
        self._memory.pretend(free_memory)
        return x, timestep, headers[0].sigma

    def has_room(self, x: torch.Tensor, calls: int) -> bool:
        """Whether `calls` calls of latents like `x` (B, ...) fit into memory as one batch, on every rank.

        Call it after `agree`.
        """
        return self._memory.holds([calls * x.shape[0], *x.shape[1:]], x.device)

    def seen(self, denoised: torch.Tensor) -> None:
        """Record the model's output; NaN or Inf in it stops all ranks at the next agreement."""
        self._finite = torch.isfinite(denoised).all()

    def finite(self, finite: bool) -> None:
        """Record whether the model's output was free of NaN and Inf, where that is known already."""
        self._finite = finite

    def end(self) -> None:
        """Agree once more after the sampler has returned: every rank has got here, and the last call was finite."""
        with self._ledger.phase(COMPUTE):
            finite = bool(self._finite)
        self._gather(CallHeader(END_OF_RUN, 0.0, 0, 0, self._cancelled(), finite))

    def _own(self, call: int, x: torch.Tensor, timestep: torch.Tensor) -> CallHeader:
        """This rank's header. The host waits once for the device."""
        parts = [_bytes(x), _bytes(timestep.reshape(-1)[0].to(x.device, torch.float64))]
        later = isinstance(self._finite, torch.Tensor)
        if later:
            parts.append(_bytes(self._finite.to(x.device)))
        with self._ledger.phase(COMPUTE):  # of the last call, which the device may still be at
            data = torch.cat(parts).cpu().numpy()
        split = parts[0].numel()
        (sigma,) = struct.unpack("<d", data[split : split + 8].tobytes())
        finite = bool(data[split + 8]) if later else self._finite
        free = int(self._memory.free(x.device))
        return CallHeader(call, sigma, zlib.crc32(data[:split]), free, self._cancelled(), finite)

    def _gather(self, own: CallHeader) -> list[CallHeader]:
        rows = torch.empty(dist.get_world_size() * CallHeader.SIZE, dtype=torch.int64)
        with self._ledger.phase("exposed"):
            dist.all_gather_into_tensor(rows, own.to_tensor())
        headers = [CallHeader.from_tensor(row) for row in rows.view(-1, CallHeader.SIZE)]
        check(headers, self._ledger.first_not_finite)
        return headers


def _from_rank_0(tensor: torch.Tensor) -> torch.Tensor:
    shared = tensor.detach().clone().contiguous()
    dist.broadcast(shared, src=0)
    return shared
