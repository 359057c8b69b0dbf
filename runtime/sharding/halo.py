"""The halo of a local shard: one token on either side, for modules that mix neighbouring tokens.

B batch, L local tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag


def with_halo(attention: SequenceAttention, x_BLC: Tensor, layout: TokenLayout, tag: Tag) -> Tensor:
    """Adds the last token of the shard before and the first one of the shard behind, where there are such.

    Collective: every rank sends its first and its last token.
    """
    part, parts = attention.shard_index, attention.shards
    ends = torch.cat([x_BLC[:, :1], x_BLC[:, -1:]], 1)
    ends = attention.gather_tokens(ends, TokenLayout((2 * parts,), parts), 1, tag)
    after = 2 * part + 2
    following = part + 1 < parts and layout.given.chunk(part + 1) > 0  # a spare is no neighbour
    return torch.cat([ends[:, 2 * part - 1 : 2 * part], x_BLC, ends[:, after : after + following]], 1)


def without_halo(output_BLC: Tensor, layout: TokenLayout, part: int) -> Tensor:
    """Cuts the halo off the output of a module that was given `with_halo`."""
    return output_BLC.narrow(1, int(part > 0), layout.chunk(part))
