"""Gives a module that mixes neighbouring tokens a halo: one token of the neighbouring shards on either side.

B batch, L local tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...attention.layout import TokenLayout
from ...attention.sequence_attention import SequenceAttention
from ...compression.wire import Tag
from ..handler import Given
from ..padded_layout import PaddedLayout
from .action import Action, ActionOnArgument, handles


@dataclass(frozen=True)
class Halo(Action):
    """`path` mixes neighbouring tokens, like a convolution of kernel 3, so it needs a halo.

    Its argument, local tokens of `segment`, gets the next token on either side; its output is cut to the local tokens.
    """

    arg: str | int
    segment: str


@handles(Halo)
class HaloHandler(ActionOnArgument):
    """Adds the halo to the argument and cuts it off the output."""

    action: Halo

    def change(self, value: Tensor, given: Given) -> Tensor:
        """See `ArgumentHandler.change`."""
        context = self.context
        tag = context.tag(context.call.names.unique(self.site.path), "halo")
        return with_halo(context.attention, value, context.layout((self.action.segment,)), tag)

    def post_hook(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: Tensor) -> Tensor:
        """See `ModuleHandler.post_hook`."""
        return without_halo(output, self.context.layout((self.action.segment,)), self.context.shard_index)


def with_halo(attention: SequenceAttention, x_BLC: Tensor, layout: PaddedLayout, tag: Tag) -> Tensor:
    """Adds the last token of the shard before and the first one of the shard after, where there are such.

    Collective: every rank sends its first and its last token.
    """
    shard, shards = attention.shard_index, attention.shards
    ends = torch.cat([x_BLC[:, :1], x_BLC[:, -1:]], 1)
    ends = attention.gather_tokens(ends, TokenLayout((2 * shards,), shards), 1, tag)
    after = 2 * shard + 2
    following = shard + 1 < shards and layout.unpadded.chunk(shard + 1) > 0  # padding is no neighbour
    return torch.cat([ends[:, 2 * shard - 1 : 2 * shard], x_BLC, ends[:, after : after + following]], 1)


def without_halo(output_BLC: Tensor, layout: TokenLayout, shard: int) -> Tensor:
    """Cuts the halo off the output of a module that was given `with_halo`."""
    return output_BLC.narrow(1, int(shard > 0), layout.chunk(shard))
