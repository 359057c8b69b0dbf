"""Encodes and decodes the tensors of a message on a GPU, without making the host wait: by kernels, else with PyTorch.

What the host would have to wait for (how a tensor is predicted, whether it is finite, its checksum, its error) is
computed on the device, goes into the headers there, and into records that the host reads later (see records.py).

Kernels take a few launches for all tensors. They apply to CUDA tensors of one shape, dtype and codec, if that codec has
kernels. Otherwise the tensors are processed one by one, with the same results. Bases that are no longer needed are
overwritten to save memory.

Legend: N tokens, C channels, S tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import header
from .checksum import body_sums
from .header import Header
from .kernels import ops
from .predict import products
from .quantise import Decoding, Encoding
from .records import LOST, WORDS


class Parts(NamedTuple):
    """The parts of a message's first part: the headers of all S tensors, and behind them the body of each."""

    headers: Tensor
    bodies: Tensor
    sizes: Sequence[int]

    @classmethod
    def of(cls, first: Tensor, sizes: Sequence[int]) -> Parts:
        """The parts of `first` (uint8, aligned); `sizes` are those of the bodies."""
        return cls(first[: Header.SIZE * len(sizes)], first[Header.SIZE * len(sizes) :], sizes)

    def each(self) -> Sequence[Tensor]:
        """The bodies."""
        return self.bodies.split_with_sizes(self.sizes)

    @property
    def words(self) -> Tensor:
        """The headers as (S, 8) int32."""
        return self.headers.view(torch.int32).view(-1, header.WORDS)


def encode_all(tasks: Sequence[Encoding | None], parts: Parts, templates: bytes) -> tuple[list[Tensor | None], Tensor]:
    """Encodes all tensors of a message into their payloads and completes the headers, of which `templates` are known.

    A task is None where everything is sent raw and stands in the body already. Returns x_hat of each, None without a
    task, and the records (S, 12) int32.
    """
    if not _by_kernels(tasks, [task and task.x_NC for task in tasks]):
        return _encode_plain(tasks, parts, templates)
    xs = [task.x_NC for task in tasks]
    bases, previous = _bases(tasks, xs)
    payloads = [task.payload for task in tasks]
    kind = {"order": len(tasks[0].bases), "codec": tasks[0].codec.ident}
    records = ops.encode(xs, bases, previous, payloads, parts.headers, templates, **kind)
    if (raw := _raw_words(tasks, parts)) is not None:
        parts.words[:, header.CHECKSUM] += raw
    return previous or bases, records


def decode_all(tasks: Sequence[Decoding | None], parts: Parts) -> tuple[list[Tensor | None], Tensor]:
    """Decodes all tensors of a message as its headers say, which are not read here.

    Returns x_hat of each (None without a task), which it writes into its `out_NC` too, and the records (S, 12) int32.
    """
    if not _by_kernels(tasks, [task and task.out_NC for task in tasks]):
        return _decode_plain(tasks, parts)
    outs = [task.out_NC for task in tasks]
    bases, previous = _bases(tasks, outs)
    kind = {"order": len(tasks[0].bases), "codec": tasks[0].codec.ident}
    records = ops.decode([task.payload for task in tasks], bases, previous, outs, parts.headers, **kind)
    if (raw := _raw_words(tasks, parts)) is not None:
        records[:, header.WORDS] += raw
    return previous or bases, records


def _by_kernels(tasks: Sequence[Encoding | None] | Sequence[Decoding | None], tensors: Sequence[Tensor | None]) -> bool:
    """Whether one launch can process all tasks: tensors of one kind, readable by kernels, of a codec with kernels."""
    if any(task is None for task in tasks):
        return False
    kinds = {(task.codec.ident, len(task.bases), x.shape, x.dtype) for task, x in zip(tasks, tensors)}
    return (
        len(kinds) == 1
        and ops.usable(tasks[0].codec.ident, tensors[0].shape[1], tensors[0].device)
        and all(x.stride(1) == 1 for x in tensors)
    )


def _raw_words(tasks: Sequence[Encoding] | Sequence[Decoding], parts: Parts) -> Tensor | None:
    """The sums of the words in front of each payload, (S,) int32; None if there are none."""
    raw = [body[: task.payload.storage_offset() - body.storage_offset()] for task, body in zip(tasks, parts.each())]
    return (
        torch.stack([body_sums(part, [len(part)])[0] for part in raw]).to(torch.int32) if any(map(len, raw)) else None
    )


def _bases(tasks: Sequence[Encoding] | Sequence[Decoding], like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """`bases` and `previous` as the kernels take them: x_hat is written over the older base, which must be disposable.

    A stream that will keep two bases but has only one keeps that one, and x_hat gets new memory.
    """
    new = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like if len(tasks[0].bases) < 2]
    match len(tasks[0].bases):
        case 0:
            return new, []
        case 1 if tasks[0].keep < 2:
            return [task.bases[0] for task in tasks], []
        case 1:
            return [task.bases[0] for task in tasks], new
        case _:
            return [task.bases[0] for task in tasks], [task.bases[1] for task in tasks]


class _Encoded(NamedTuple):
    """One tensor encoded with PyTorch; all but x_hat are scalars on the device."""

    x_hat_NC: Tensor | None
    k: Tensor
    flags: Tensor
    missing: Tensor
    norm: Tensor
    lost: Tensor


def _encode_plain(
    tasks: Sequence[Encoding | None], parts: Parts, templates: bytes
) -> tuple[list[Tensor | None], Tensor]:
    device = parts.headers.device
    encoded = [_nothing(device) if task is None else _encode(task) for task in tasks]
    x_hats, *columns = zip(*encoded)
    k, flags, missing, norm, lost = (torch.stack(column) for column in columns)
    words = torch.frombuffer(bytearray(templates), dtype=torch.int32).view(-1, header.WORDS)
    words = (words.pin_memory() if device.type == "cuda" else words).to(device, non_blocking=True)
    k, flags = k.view(torch.int32), flags.to(torch.int32)
    sums = body_sums(parts.bodies, parts.sizes)
    words[:, header.K], words[:, header.FLAGS] = k, flags
    words[:, header.CHECKSUM] = (words[:, header.CHECKSUM] + sums + k + flags).to(torch.int32)
    parts.words.copy_(words)
    figures = [each.view(torch.int32).view(len(tasks), -1) for each in (missing, norm, lost)]
    return list(x_hats), torch.cat([words, *figures], 1)


def _encode(task: Encoding) -> _Encoded:
    x_NC, codec = task.x_NC.float().contiguous(), task.codec
    norm, missing, wanted, available = products(x_NC, task.bases)
    solvable = (available > 0) & (available < math.inf) & ~wanted.isnan()
    k = torch.where(solvable, wanted / torch.where(solvable, available, 1), 0).clamp(-1, 1)
    missing = missing - 2 * k * wanted + k * k * available
    finite = x_NC.isfinite().all()
    used = (missing < norm) & finite if task.bases else torch.zeros_like(finite)
    expected_NC = _expected(task.bases, used, k)
    task.write(codec.encode(x_NC if expected_NC is None else x_NC - expected_NC, task.previous))
    x_hat_NC = _restored(codec.decode(task.payload, *x_NC.shape, torch.float32), expected_NC, used, task.x_NC.dtype)
    lost = (x_NC - x_hat_NC).square().sum() / torch.where(norm > 0, norm, 1)
    relative = torch.where(used & (norm < math.inf), (missing.clamp(min=0) / norm.clamp(min=1e-45)).sqrt(), 1)
    flags = used * len(task.bases) + finite * header.FINITE
    parts = (lost.nan_to_num(0, 0, 0).clamp(max=8192).double() * LOST).long()
    return _Encoded(x_hat_NC, torch.where(used, k, 0), flags, relative, norm, parts)


def _nothing(device: torch.device) -> _Encoded:
    zero = torch.zeros((), device=device)
    return _Encoded(None, zero, torch.full((), header.FINITE, device=device), zero, zero, zero.long())


def _decode_plain(tasks: Sequence[Decoding | None], parts: Parts) -> tuple[list[Tensor | None], Tensor]:
    x_hats = [None if task is None else _decode(task, row) for task, row in zip(tasks, parts.words.unbind())]
    return x_hats, received_records(parts)


def received_records(parts: Parts) -> Tensor:
    """The records (S, 12) int32 of a message that was received."""
    words = parts.words
    sums = body_sums(parts.bodies, parts.sizes).to(torch.int32)[:, None]
    return torch.cat([words, sums, words.new_zeros(len(words), WORDS - header.WORDS - 1)], 1)


def _decode(task: Decoding, words: Tensor) -> Tensor:
    """x_hat (N, C); `words` (8,) int32 is the header."""
    used, k = (words[header.FLAGS] & 0xFF) > 0, words[header.K].view(torch.float32)
    finite = (words[header.FLAGS] & header.FINITE) > 0
    decoded_NC = task.codec.decode(task.payload, *task.out_NC.shape, torch.float32)
    x_hat_NC = _restored(decoded_NC, _expected(task.bases, used, k), used, task.out_NC.dtype)
    task.out_NC.copy_(torch.where(finite, x_hat_NC, math.nan))
    return x_hat_NC


def _expected(bases: Sequence[Tensor], used: Tensor, k: Tensor) -> Tensor | None:
    """As `predict`, with scalars on the device: (N, C) float32, zeros unless `used`; None without bases."""
    if not bases:
        return None
    base = bases[0].float()
    if len(bases) > 1:
        base = torch.where(k == 0, base, (base - bases[1]).mul_(k).add_(base))
    return torch.where(used, base, 0)


def _restored(decoded_NC: Tensor, expected_NC: Tensor | None, used: Tensor, dtype: torch.dtype) -> Tensor:
    """decoded + expected in `dtype`: the same bits as `quantise` gives."""
    if expected_NC is not None:
        decoded_NC = torch.where(used, decoded_NC + expected_NC, decoded_NC)
    largest = torch.finfo(dtype).max
    return decoded_NC.clamp_(-largest, largest).to(dtype)
