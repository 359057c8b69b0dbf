"""Divides work over the ranks where every rank has all tokens: attention by heads or sequences, modules by tokens.

B batch, N tokens, H heads, D head dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..handler import Given
from ..head_parallel import share_heads
from ..padded_layout import PaddedLayout
from ..varlen_attention import share_sequences
from .action import Action, ActionHandler, ActionOnArgument, handles


@dataclass(frozen=True)
class DivideSequences(Action):
    """Variable-length attention within many sequences: every rank has all tokens and computes some of the sequences.

    `path` is "", the model. Patches `function` of the Python `module`; see `share_sequences` for how it is called.
    """

    module: str
    function: str


@dataclass(frozen=True)
class DivideHeads(Action):
    """Attention by heads: every rank has all tokens and computes a chunk of the heads.

    `path` is "", the model. Patches `function` of the Python `module`, called like ComfyUI's attention; see
    `share_heads`.
    """

    module: str
    function: str


@dataclass(frozen=True)
class DivideTokens(Action):
    """`path` works on each token alone, and every rank has all tokens: each computes a shard of the argument's tokens.

    The output is gathered, so that every rank has all tokens again.
    """

    arg: str | int


class FunctionHandler(ActionHandler, ABC):
    """Stands in for a function of a Python module while the hooks are on the model."""

    action: DivideSequences | DivideHeads

    @abstractmethod
    def call(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Runs in place of `function`, with its arguments."""


@handles(DivideSequences)
class DivideSequencesHandler(FunctionHandler):
    """Divides the sequences of a variable-length attention."""

    def call(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """See `FunctionHandler.call`."""
        context = self.context
        if context.call.unsplit:
            return function(*args, **kwargs)
        tag = context.tag(context.call.names.unique("sequences"), "all tokens")
        gather = partial(context.all_gather, dim=0, tag=tag)
        return share_sequences(function, context.shards, context.shard_index, gather, **kwargs)


@handles(DivideHeads)
class DivideHeadsHandler(FunctionHandler):
    """Divides the heads of attention, unless a module runs whose tokens are divided."""

    def call(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """See `FunctionHandler.call`."""
        context = self.context
        if context.call.unsplit or context.call.divided is not None:
            return function(*args, **kwargs)
        tag = context.tag(context.call.names.unique("heads"), "all tokens")
        gather = partial(context.all_gather, dim=2, tag=tag)
        return share_heads(function, context.shards, context.shard_index, gather, *args, **kwargs)


@handles(DivideTokens)
class DivideTokensHandler(ActionOnArgument):
    """Cuts the argument to a shard of its tokens and gathers the output."""

    def change(self, value: Tensor, given: Given) -> Tensor:
        """See `ArgumentHandler.change`."""
        layout = PaddedLayout((value.shape[1],), self.context.shards)
        self.context.call.divided = layout
        return layout.split(value, 0, 1, self.context.shard_index)

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `ModuleHandler.post_hook`."""
        call = self.context.call
        layout, call.divided = call.divided, None
        tag = self.context.tag(self.context.call.names.unique(self.site.path), "all tokens")
        return self.context.all_gather(output, layout, 1, tag)
