"""Ulysses: an all-to-all turns "some tokens, all heads" into "all tokens of the group, some heads", and back.

Jacobs et al.: DeepSpeed Ulysses, 2023 (arXiv:2309.14509).
B batch, L tokens of one rank, G tokens of the group, H heads, D head dim, U ranks of the axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .axis import Axis, exchange
from .errors import Unsupported
from .layout import TokenLayout

if TYPE_CHECKING:
    from ..report.ledger import Ledger


def check_heads(heads: int, kv_heads: int, degree: int) -> None:
    """Raises Unsupported unless `degree` ranks can share the heads of the queries and those of keys and values."""
    for count, whose in ((heads, "attention heads"), (kv_heads, "key and value heads")):
        if count % degree:
            raise Unsupported(
                f"ulysses_degree is {degree} but this model has {count} {whose}, which {degree} does not divide; "
                f"choose a ulysses_degree that divides {count} and give the other ranks to ring_degree."
            )


def _all_to_all(messages: Sequence[Tensor], sizes: Sequence[int], axis: Axis, ledger: Ledger) -> list[Tensor]:
    """Sends messages[j] (1-D) to member j and returns what each member sent here, `sizes` values each."""
    outgoing = sum(messages[j].numel() for j in axis.others())
    ledger.sent(outgoing * messages[0].element_size(), 2 * outgoing)
    received = {j: messages[0].new_empty(sizes[j]) for j in axis.others()}
    exchange(axis, {j: messages[j] for j in axis.others()}, received, ledger)
    return [messages[j] if j == axis.index else received[j] for j in range(axis.size)]


def tokens_to_heads(
    tensors_BLHD: Sequence[Tensor], axis: Axis, layout: TokenLayout, first_part: int, ledger: Ledger
) -> list[Tensor]:
    """Each tensor as (B, G, H / U, D): the group's tokens segment by segment, this rank's share of the heads.

    Args:
        tensors_BLHD: q, k, v of this rank's tokens, one dtype, each with its own number of heads.
        first_part: the part of `layout` that member 0 holds.
    """
    members = range(axis.size)
    shares = [torch.tensor_split(x, axis.size, dim=2) for x in tensors_BLHD]
    messages = [torch.cat([share[j].reshape(-1) for share in shares]) for j in members]
    lengths = [layout.chunk(first_part + j) for j in members]
    shapes = [[(x.shape[0], n, x.shape[2] // axis.size, x.shape[3]) for x in tensors_BLHD] for n in lengths]
    counts = [[torch.Size(shape).numel() for shape in row] for row in shapes]
    arrived = _all_to_all(messages, [sum(row) for row in counts], axis, ledger)
    pieces = [[flat.view(shape) for flat, shape in zip(arrived[j].split(counts[j]), shapes[j])] for j in members]
    return [
        _by_segment([pieces[j][n] for j in members], [layout.local(first_part + j) for j in members])
        for n in range(len(tensors_BLHD))
    ]


def heads_to_tokens(x_BGHD: Tensor, axis: Axis, layout: TokenLayout, first_part: int, ledger: Ledger) -> Tensor:
    """The inverse for the output of attention: (B, G, H / U, D) to (B, L, H, D)."""
    members = range(axis.size)
    local = [layout.local(first_part + j) for j in members]
    spans = [n for segment in range(len(layout.lengths)) for n in (local[j][segment] for j in members)]
    found = x_BGHD.split(spans, dim=1)
    messages = [torch.cat(found[j :: axis.size], dim=1).reshape(-1) for j in members]
    batch, _, heads, dim = x_BGHD.shape
    mine = sum(local[axis.index])
    arrived = _all_to_all(messages, [batch * mine * heads * dim] * axis.size, axis, ledger)
    return torch.cat([flat.view(batch, mine, heads, dim) for flat in arrived], dim=2)


def _by_segment(pieces_BLHD: Sequence[Tensor], local: Sequence[Sequence[int]]) -> Tensor:
    """Members' tokens, each [text, image], as [text of all, image of all] (B, G, H, D)."""
    segments = zip(*(piece.split(list(sizes), dim=1) for piece, sizes in zip(pieces_BLHD, local)))
    return torch.cat([span for members in segments for span in members], dim=1)
