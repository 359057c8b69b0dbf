"""Gathers all tokens for patches inside a transformer's blocks: the `View` (see `block_patches.py`) of one forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag
from .forward import Forward
from .hooks import Slots
from .padded_layout import PaddedLayout


class TokenView:
    """Lets patches see all tokens on a rank that holds a shard of them.

    `slots`: the batch entries. `layout`: gives the layout of segments. `named`: makes a name for a message, used once
    per forward. `joint`: the segments to assume outside of an attention scope. `behind`: there are patches behind
    attention, which can restore a token count that others in front of it have changed.
    """

    def __init__(
        self,
        forward: Forward,
        attention: SequenceAttention,
        slots: Slots,
        layout: Callable[[tuple[str, ...]], PaddedLayout],
        named: Callable[[str], str],
        refuse: Callable[[str], Exception],
        *,
        joint: tuple[str, ...],
        behind: bool,
    ) -> None:
        self._forward, self._attention, self._slots = forward, attention, slots
        self._layout_of, self._named, self._refuse = layout, named, refuse
        self._joint, self._behind = joint, behind

    @property
    def _layout(self) -> PaddedLayout:
        scope, call = self._forward.scope, self._forward.scope_calls
        return self._layout_of(scope.calls[min(call, len(scope.calls) - 1)] if scope is not None else self._joint)

    def is_whole(self) -> bool:
        """See `View.is_whole`: true in a block that runs on all tokens, and before they are split."""
        return self._forward.whole_block or not self._forward.lengths

    def gathered(self, x: Tensor, dim: int, what: str) -> Tensor:
        """See `View.gathered`."""
        if self.is_whole():
            return x
        if self._forward.whole_output:
            self._forward.whole_output = False
            return x
        layout, tag = self._layout, Tag(self._named(what), "tokens", self._slots, sensitive=True)
        self._check(x, dim, layout.chunk(self._attention.part))
        x = layout.without_padding(x, dim, self._attention.part)
        x = self._attention.gather_tokens(x, layout.given, dim, tag)
        grid = self._grid(x, dim)
        return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + len(grid) :]) if grid else x

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """See `View.cut`."""
        if self.is_whole():
            return x
        layout, grid = self._layout, self._grid(x, dim)
        if grid:
            x = x.flatten(dim, dim + len(grid) - 1)[(slice(None),) * (dim + 1) + (None,) * (len(grid) - 1)]
        self._check(x, dim, layout.total)
        return layout.split_joint(x, dim, self._attention.part)

    def whole_of(self, own: Any) -> Any:
        """See `View.whole_of`. Raises Unsupported for a value that no action of the plan has made."""
        if own is None or self.is_whole():
            return own
        for value, made in self._forward.copies.values():
            if made is own:
                return value
        raise self._refuse("a patch inside attention that is given positions the plan does not know")

    def whole_mask(self, mask: Any) -> Any:
        """See `View.whole_mask`."""
        return self._forward.taken_mask if mask is None else mask

    @contextmanager
    def seeing_all(self, options: dict[str, Any] | None) -> Iterator[None]:
        """See `View.seeing_all`."""
        span = (options or {}).get("img_slice")
        if span is not None and not self.is_whole():
            options["img_slice"] = self._whole_span(span)
        scope, self._forward.scope = self._forward.scope, None
        try:
            yield
        finally:
            self._forward.scope = scope
            if span is not None:
                options["img_slice"] = span

    def attend_to_all(self) -> None:
        """See `View.attend_to_all`."""
        self._forward.all_given = True

    def attend(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attention of the local queries to all keys; of all queries where a patch has changed their number.

        Raises Unsupported where no patch behind attention restores it.
        """
        self._forward.all_given = False
        layout, mask, part = self._layout, kwargs.get("mask"), self._attention.part
        dim = 2 if kwargs.get("skip_reshape") else 1
        if (q.shape[0], q.shape[dim]) != (len(self._slots), layout.total):
            if not self._behind:
                self._check(q, dim, layout.total)
            self._forward.whole_output = True
            return func(q, k, v, **kwargs)
        of_queries = mask is not None and (mask.shape[0] if mask.ndim == 2 else mask.shape[-2]) == layout.total
        if of_queries:
            kwargs["mask"] = layout.split_joint(mask, mask.ndim - 2, part)
        return func(layout.split_joint(q, dim, part), k, v, **kwargs)

    def _check(self, x: Tensor, dim: int, tokens: int) -> None:
        if (x.shape[0], x.shape[dim]) != (len(self._slots), tokens):
            raise self._refuse(
                f"a patch inside its blocks that makes {x.shape[0]} times {x.shape[dim]} tokens of {len(self._slots)} "
                f"times {tokens}"
            )

    def _grid(self, x: Tensor, dim: int) -> tuple[int, ...]:
        """The shape of the grid of tokens that `x` has from `dim` on, or had in the model; empty if there is none."""
        grid = self._forward.grids.get(self._joint[0], ())
        return grid if x.ndim == dim + len(grid) + 1 else ()

    def _whole_span(self, span: list[int]) -> list[int]:
        """Converts a span of segments from local to all tokens; a span that is of all tokens already stays."""
        layout = self._layout
        if span[1] == layout.total:
            return span
        own, whole = (
            [sum(each[:i]) for i in range(len(each) + 1)]
            for each in (layout.local(self._attention.part), layout.lengths)
        )
        if any(position not in own for position in span):
            raise self._refuse(f"a patch inside attention that is told of the tokens {span}")
        return [whole[own.index(position)] for position in span]
