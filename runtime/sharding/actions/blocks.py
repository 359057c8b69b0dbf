"""Splits the input of every block and gathers its output, in calls that need all tokens between the blocks.

In other calls tokens are split before the first block (split.py) and gathered after the last layer (gather.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..handler import Changed, Given
from .action import Action, ActionHandler, handles
from .split import Prefix, Split


@dataclass(frozen=True)
class Blocks(Action):
    """The blocks at `path` and every tensor of tokens they change: (argument, segments, place in the output or None).

    Usually the tokens are split before the first block, and the plan says where they are gathered. Where a patch looks
    at the tokens between the blocks, it gets all of them: then the input of each block is split and its output
    gathered instead, and the model adds control to all tokens. `dim`, `grid` and `prefix` are as in Split.
    """

    tokens: tuple[tuple[str | int, tuple[str, ...], int | None], ...]
    dim: int = 1
    grid: int = 1
    prefix: Prefix | None = None

    def first_splits(self) -> Iterator[Split]:
        """The splits before the first block: of the tensors that hold one segment."""
        parent, _, last = self.path.rpartition(".")
        for arg, segments, _ in self.tokens:
            if len(segments) == 1 and last == "*":
                yield Split(f"{parent}.first", arg, *segments, dim=self.dim, grid=self.grid, prefix=self.prefix)


@handles(Blocks)
class BlocksHandler(ActionHandler):
    """Splits and gathers around one block, where the model holds all tokens between its blocks."""

    action: Blocks

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`."""
        if not self.context.call.holds_all:
            return None
        given = self.given(args, kwargs)
        for arg, segments, _ in self.action.tokens:
            x = given(arg)
            if x is not None:
                args, kwargs = self.with_argument(arg, self._local(x, segments, given), args, kwargs)
        return args, kwargs

    def _local(self, x: Tensor, segments: tuple[str, ...], given: Given) -> Tensor:
        blocks, context = self.action, self.context
        if len(segments) > 1:
            return context.layout(segments).split_joint(x, blocks.dim, context.shard_index)
        return context.split(x, segments[0], blocks.dim, grid=blocks.grid, prefix=self._prefix(given))

    def _prefix(self, given: Given) -> int:
        return self.action.prefix(self.context.call.arguments, given) if self.action.prefix else 0

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """See `ModuleHandler.post_hook`."""
        if not self.context.call.holds_all:
            return None
        outputs = list(output) if isinstance(output, tuple) else [output]
        for _, segments, place in self.action.tokens:
            x = outputs[place or 0]
            if x is not None:
                tag = self.context.tag(self.site.path, f"tokens {' '.join(segments)}")
                outputs[place or 0] = self.context.gather(x, segments, self.action.dim, tag)
        self.context.call.gathered = True
        return tuple(outputs) if isinstance(output, tuple) else outputs[0]


class ModifiedBlockHandler(BlocksHandler):
    """Lets a block in which a workflow has replaced code run on all tokens, which the model holds in such a call.

    Records the lengths of its segments, because this may be the first block, before any segment has been split.
    """

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `ModuleHandler.pre_hook`."""
        given, blocks = self.given(args, kwargs), self.action
        for arg, segments, _ in blocks.tokens:
            if given(arg) is not None and len(segments) == 1:
                self.context.record(given(arg), segments[0], blocks.dim, grid=blocks.grid, prefix=self._prefix(given))
        self.context.call.module_unsplit = True

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See `ModuleHandler.post_hook`."""
        self.context.call.module_unsplit, self.context.call.gathered = False, True
