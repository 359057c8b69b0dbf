"""The table of addresses and numbers, one row per tensor, through which kernels access the tensors of a message.

Legend: S tensors (K and V of every batch entry), N tokens, C channels. Imports no Triton.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes of the widest load; body views start at multiples of it."""
WIDEST = 16384
"""The largest number of channels for kernels that hold a whole row, which are those that encode with 1 to 4 bits."""
FIELDS = 9
X, BASE, PREVIOUS, STATE, BODY, OUT, STRIDE, USE, FACTOR = range(FIELDS)
"""Columns of the table. STATE is the address where the new base is written (that of the oldest base, 0 without bases),
STRIDE the number of values from one row of X or OUT to the next, USE the number of bases in the prediction, FACTOR the
bits of k."""


@dataclass(frozen=True)
class Message:
    """S tensors of (N, C) values of one dtype. `table` is int64 (S, FIELDS) on `device`; `aligned` means that every
    row of every tensor in the table starts at a multiple of ALIGNMENT bytes."""

    table: Tensor
    tensors: int
    tokens: int
    channels: int
    dtype: torch.dtype
    device: torch.device
    aligned: bool


def make_message(
    tensors: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float] = (),
    use: Sequence[int] = (),
    bodies: Sequence[Tensor] = (),
    decodes: bool = False,
) -> Message:
    """Checks the tensors of a message and builds its table.

    `tensors` (N, C) are the inputs to encode or, if `decodes`, the outputs to write (then the list may be empty). Each
    other list is empty or of the same length; `previous` has the older base of each tensor. Raises ValueError for
    tensors that kernels cannot handle: unequal shapes or dtypes, rows with gaps between channels, bases that are not
    contiguous, bodies that do not start at a multiple of ALIGNMENT, 2^31 values or more.
    """
    like = (*tensors, *bases)
    if not like:
        raise ValueError("A message has at least one tensor or one base.")
    shape, dtype, device = like[0].shape, like[0].dtype, like[0].device
    count = len(tensors or bases)
    for name, group in (("bases", bases), ("previous", previous), ("bodies", bodies), ("use", use), ("k", k)):
        if len(group) not in (0, count):
            raise ValueError(f"{len(group)} {name} for {count} tensors.")
    for x in (*like, *previous):
        if (x.shape, x.dtype, x.device) != (shape, dtype, device):
            raise ValueError(f"{x.dtype} {tuple(x.shape)} on {x.device} beside {dtype} {tuple(shape)} on {device}.")
    if any(x.stride(1) != 1 and x.shape[1] > 1 for x in tensors):
        raise ValueError("The channels of a token must follow each other in memory.")
    if not all(base.is_contiguous() for base in (*bases, *previous)):
        raise ValueError("Bases must be contiguous.")
    if any(body.dtype != torch.uint8 or body.data_ptr() % ALIGNMENT for body in bodies):
        raise ValueError(f"A body is uint8 and starts at a multiple of {ALIGNMENT} bytes.")
    if shape.numel() >= 1 << 31:
        raise ValueError(f"Kernels count the values of a tensor in 32 bits; {tuple(shape)} are too many.")
    if len(previous) and not len(bases):
        raise ValueError("Older bases without newer ones.")
    rows = [[0] * FIELDS for _ in range(count)]
    for column, group in ((OUT if decodes else X, tensors), (BASE, bases), (PREVIOUS, previous), (BODY, bodies)):
        for row, x in zip(rows, group):
            row[column] = x.data_ptr()
    for index, row in enumerate(rows):
        row[STATE] = row[PREVIOUS] or row[BASE]
        row[STRIDE] = tensors[index].stride(0) if tensors else shape[1]
        row[USE], row[FACTOR] = _prediction(use[index], k[index]) if use else (0, 0)
        if row[USE] > bool(row[BASE]) + bool(row[PREVIOUS]):
            raise ValueError(f"Tensor {index} is to be predicted from {row[USE]} bases and has not so many.")
    item = dtype.itemsize
    aligned = not any(
        value % ALIGNMENT for row in rows for value in (*row[:BODY], row[OUT], row[STRIDE] * item, shape[1] * item)
    )
    return Message(_on(rows, device), count, *shape, dtype, device, aligned)


def _prediction(use: int, k: float) -> tuple[int, int]:
    """(USE, FACTOR); with k = 0 USE is at most 1, so the older base is not read."""
    return (1 if use == 2 and k == 0 else use), struct.unpack("<i", struct.pack("<f", k))[0]


def _on(rows: list[list[int]], device: torch.device) -> Tensor:
    """The table on `device`, copied from pinned memory so that the host does not wait for the device."""
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
