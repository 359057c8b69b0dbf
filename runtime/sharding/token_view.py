"""Gathers all tokens for the patches inside of blocks: the `AllTokens` of one call (see `block_patches.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .padded_layout import PaddedLayout
from .token_context import TokenContext


class TokenView:
    """Lets patches see all tokens on a rank that holds a shard of them, for one call of the model.

    `adds_keys`: patches in front of attention may add keys. `restores`: there are patches after attention, which can
    restore a token count that others in front of it have changed. `attends_to_all`: the next attention call is given
    all queries, keys and values.
    """

    def __init__(self, context: TokenContext, *, adds_keys: bool, restores: bool) -> None:
        self._context = context
        self.adds_keys, self._restores = adds_keys, restores
        self.attends_to_all = False
        self._has_whole_output = False  # attention has just returned all tokens

    @property
    def _layout(self) -> PaddedLayout:
        scope = self._context.call.scope
        return self._context.layout(scope.segments if scope is not None else self._context.plan.joint)

    def is_whole(self) -> bool:
        """See `AllTokens.is_whole`: true in a block that runs on all tokens, and before they are split."""
        return self._context.call.module_unsplit or not self._context.call.segments

    def gathered(self, x: Tensor, dim: int, what: str) -> Tensor:
        """See `AllTokens.gathered`."""
        if self.is_whole():
            return x
        if self._has_whole_output:
            self._has_whole_output = False
            return x
        context, layout = self._context, self._layout
        tag = context.tag(context.call.names.unique(what), "tokens")
        self._check(x, dim, layout.chunk(context.shard_index))
        x = layout.without_padding(x, dim, context.shard_index)
        x = context.attention.gather_tokens(x, layout.unpadded, dim, tag)
        grid = self._grid(x, dim)
        return x.reshape(*x.shape[:dim], *grid, *x.shape[dim + len(grid) :]) if grid else x

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """See `AllTokens.cut`."""
        if self.is_whole():
            return x
        layout, grid = self._layout, self._grid(x, dim)
        if grid:
            x = x.flatten(dim, dim + len(grid) - 1)[(slice(None),) * (dim + 1) + (None,) * (len(grid) - 1)]
        self._check(x, dim, layout.total)
        return layout.split_joint(x, dim, self._context.shard_index)

    def whole_of(self, local: Any) -> Any:
        """See `AllTokens.whole_of`. Raises Unsupported for a value that no action of the plan has made."""
        if local is None or self.is_whole():
            return local
        try:
            return self._context.call.copies.original_of(local)
        except LookupError as error:
            raise self._context.plan.refuse(
                "a patch inside attention that is given positions the plan does not know"
            ) from error

    def whole_mask(self, mask: Any) -> Any:
        """See `AllTokens.whole_mask`."""
        taken = self._context.call.key_mask
        return taken.taken if mask is None and taken is not None else mask

    @contextmanager
    def seeing_all(self, options: dict[str, Any] | None) -> Iterator[None]:
        """See `AllTokens.seeing_all`."""
        span = (options or {}).get("img_slice")
        if span is not None and not self.is_whole():
            options["img_slice"] = self._whole_span(span)
        call = self._context.call
        scope, call.scope = call.scope, None
        try:
            yield
        finally:
            call.scope = scope
            if span is not None:
                options["img_slice"] = span

    def attend_to_all(self) -> None:
        """See `AllTokens.attend_to_all`."""
        self.attends_to_all = True

    def attend(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attention of the local queries to all keys; of all queries where a patch has changed their number.

        Raises Unsupported where no patch after attention restores it.
        """
        self.attends_to_all = False
        layout, mask, shard = self._layout, kwargs.get("mask"), self._context.shard_index
        dim = 2 if kwargs.get("skip_reshape") else 1
        if (q.shape[0], q.shape[dim]) != (len(self._context.call.slots), layout.total):
            if not self._restores:
                self._check(q, dim, layout.total)
            self._has_whole_output = True
            return func(q, k, v, **kwargs)
        of_queries = mask is not None and (mask.shape[0] if mask.ndim == 2 else mask.shape[-2]) == layout.total
        if of_queries:
            kwargs["mask"] = layout.split_joint(mask, mask.ndim - 2, shard)
        return func(layout.split_joint(q, dim, shard), k, v, **kwargs)

    def _check(self, x: Tensor, dim: int, tokens: int) -> None:
        entries = len(self._context.call.slots)
        if (x.shape[0], x.shape[dim]) != (entries, tokens):
            raise self._context.plan.refuse(
                f"a patch inside its blocks that makes {x.shape[0]} times {x.shape[dim]} tokens of {entries} "
                f"times {tokens}"
            )

    def _grid(self, x: Tensor, dim: int) -> tuple[int, ...]:
        """The shape of the grid of tokens that `x` has from `dim` on, or had in the model; empty if there is none."""
        segment = self._context.call.segments.get(self._context.plan.joint[0])
        grid = segment.grid if segment else ()
        return grid if x.ndim == dim + len(grid) + 1 else ()

    def _whole_span(self, span: list[int]) -> list[int]:
        """Converts a span of segments from local to all tokens; a span that is of all tokens already stays."""
        layout = self._layout
        if span[1] == layout.total:
            return span
        local, whole = (
            [sum(lengths[:i]) for i in range(len(lengths) + 1)]
            for lengths in (layout.local(self._context.shard_index), layout.lengths)
        )
        if any(position not in local for position in span):
            raise self._context.plan.refuse(f"a patch inside attention that is told of the tokens {span}")
        return [whole[local.index(position)] for position in span]
