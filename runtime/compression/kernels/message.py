"""The table of addresses and numbers, one row per tensor, through which kernels access the tensors of a message.

It goes to the device in one copy. Its last columns are the record of each tensor, which kernels write (`..records`).

Legend: S tensors (K and V of every batch entry), N tokens, C channels. Imports no Triton.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..header import Header
from ..records import WORDS

ALIGNMENT = 16
"""Bytes of the widest load; body views start at multiples of it."""
WIDEST = 16384
"""The largest number of channels for kernels that hold a whole row, which are those that encode with 1 to 4 bits."""
X, BASE, PREVIOUS, STATE, BODY, OUT, STRIDE, HEADER, RECORD = range(9)
"""Columns of the table. STATE is the address where the new base is written (that of the oldest base, 0 without bases),
STRIDE the number of values from one row of X or OUT to the next, HEADER the address of the header in the message, and
RECORD the first column of the record, which holds the template of the header where a message is encoded."""
FIELDS = RECORD + WORDS // 2
_TEMPLATE = struct.Struct("<4q")


@dataclass(frozen=True)
class Message:
    """S tensors of (N, C) values of one dtype. `table` is int64 (S, FIELDS) on `device`; `bases` of each are real;
    `payload` bytes are in each body; `aligned` means that every row of every tensor in the table starts at a multiple
    of ALIGNMENT bytes."""

    table: Tensor
    tensors: int
    tokens: int
    channels: int
    dtype: torch.dtype
    device: torch.device
    aligned: bool
    bases: int
    payload: int

    @property
    def records(self) -> Tensor:
        """(S, WORDS) int32, as the kernels have left them."""
        return self.table[:, RECORD:].view(torch.int32)


def make_message(
    tensors: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    bodies: Sequence[Tensor],
    headers: Tensor,
    order: int,
    payload: int,
    templates: bytes = b"",
) -> Message:
    """Checks the tensors of a message and builds its table.

    Args:
        tensors: (N, C), the inputs to encode or, without `templates`, the outputs to write (then it may be empty).
        bases, previous: lists that are empty or of the same length; `previous` has the older base of each tensor.
        bodies: uint8, of at least `payload` bytes each.
        headers: uint8, Header.SIZE bytes per tensor.
        order: how many of the bases hold what was received before; the others are memory for the new base.
    Raises:
        ValueError: tensors that kernels cannot handle: unequal shapes or dtypes, rows with gaps between channels, bases
            that are not contiguous, bodies and headers that do not start at a multiple of ALIGNMENT, 2^31 values or
            more.
    """
    like = (*tensors, *bases)
    if not like:
        raise ValueError("A message has at least one tensor or one base.")
    shape, dtype, device = like[0].shape, like[0].dtype, like[0].device
    count = len(tensors or bases)
    for name, group in (("bases", bases), ("previous", previous), ("bodies", bodies)):
        if len(group) not in (0, count):
            raise ValueError(f"{len(group)} {name} for {count} tensors.")
    for x in (*like, *previous):
        if (x.shape, x.dtype, x.device) != (shape, dtype, device):
            raise ValueError(f"{x.dtype} {tuple(x.shape)} on {x.device} beside {dtype} {tuple(shape)} on {device}.")
    if any(x.stride(1) != 1 and x.shape[1] > 1 for x in tensors):
        raise ValueError("The channels of a token must follow each other in memory.")
    if not all(base.is_contiguous() for base in (*bases, *previous)):
        raise ValueError("Bases must be contiguous.")
    if any(part.dtype != torch.uint8 or part.data_ptr() % ALIGNMENT for part in (*bodies, headers)):
        raise ValueError(f"Headers and bodies are uint8 and start at a multiple of {ALIGNMENT} bytes.")
    if len(bodies) != count or any(len(body) < payload for body in bodies) or len(headers) != count * Header.SIZE:
        raise ValueError(f"{count} bodies of at least {payload} bytes, and as many headers, are needed.")
    if prod(shape) >= 1 << 31:
        raise ValueError(f"Kernels count the values of a tensor in 32 bits; {tuple(shape)} are too many.")
    if len(previous) and not len(bases):
        raise ValueError("Older bases without newer ones.")
    if order > bool(bases) + bool(previous):
        raise ValueError(f"{order} bases are to predict, and there are not so many.")
    rows = [[0] * FIELDS for _ in range(count)]
    for column, group in ((X if templates else OUT, tensors), (BASE, bases), (PREVIOUS, previous), (BODY, bodies)):
        for row, x in zip(rows, group):
            row[column] = x.data_ptr()
    first_header = headers.data_ptr()
    for index, row in enumerate(rows):
        row[STATE] = row[PREVIOUS] or row[BASE]
        row[STRIDE] = tensors[index].stride(0) if tensors else shape[1]
        row[HEADER] = first_header + Header.SIZE * index
        if templates:
            row[RECORD : RECORD + 4] = _TEMPLATE.unpack_from(templates, Header.SIZE * index)
    item = dtype.itemsize
    aligned = not any(
        value % ALIGNMENT for row in rows for value in (*row[:BODY], row[OUT], row[STRIDE] * item, shape[1] * item)
    )
    return Message(_on(rows, device), count, *shape, dtype, device, aligned, order, payload)


def _on(rows: list[list[int]], device: torch.device) -> Tensor:
    """The table on `device`, copied from pinned memory so that the host does not wait for the device."""
    table = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
    return table.to(device, non_blocking=True)
