"""Gathers all rows for a workflow's patches on a UNet: the `AllRows` (see `row_patches.py`) of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .row_context import RowContext
from .row_effects import is_upsample


class RowView:
    """Lets patches see all rows on a rank that holds some of them, and cuts control to those."""

    def __init__(self, context: RowContext) -> None:
        self._context = context

    def gathered(self, x_BCRW: Tensor, what: str) -> Tensor:
        """See `AllRows.gathered`."""
        return self._context.gather(x_BCRW, what)

    def cut(self, x_BCHW: Tensor) -> Tensor:
        """See `AllRows.cut`."""
        return self._context.cut(x_BCHW)

    def gathered_tokens(self, x_BLC: Tensor, what: str) -> Tensor:
        """See `AllRows.gathered_tokens`."""
        return self._context.gather_tokens(x_BLC, what)

    def cut_tokens(self, x_BNC: Tensor) -> Tensor:
        """See `AllRows.cut_tokens`."""
        return self._context.cut_tokens(x_BNC)

    def all_rows(self, x_BCRW: Tensor, what: str) -> Tensor:
        """See `AllRows.all_rows`."""
        return x_BCRW if self._context.call.holds_all else self.gathered(x_BCRW, what)

    def all_rows_of_skip(self, x_BCRW: Tensor) -> Tensor:
        """See `AllRows.all_rows_of_skip`."""
        return x_BCRW if self._is_whole_skip(self._skip) else self.gathered(x_BCRW, "skip")

    def put(self, x_BCHW: Tensor, first_skip: int | None = None) -> Tensor:
        """See `AllRows.put`."""
        context, call = self._context, self._context.call
        if not call.holds_all:
            if x_BCHW.shape[-2] == context.rows.height:
                return self.cut(x_BCHW)
            call.holds_all, call.whole_skips_from = True, context.skips if first_skip is None else first_skip
        return x_BCHW

    def put_with_skip(self, x_BCHW: Tensor, skip_BCHW: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `AllRows.put_with_skip`."""
        call = self._context.call
        if x_BCHW.shape[-2] != self._context.rows.height or self._is_whole_skip(self._skip - 1):
            return self.put(x_BCHW), skip_BCHW
        call.holds_all, call.whole_skips_from = False, None
        return self.cut(x_BCHW), None if skip_BCHW is None else self.cut(skip_BCHW)

    @property
    def _skip(self) -> int:
        """The index of the input block whose skip the running output block gets."""
        return self._context.skips - 1 - self._context.call.options["block"][1]

    def _is_whole_skip(self, index: int) -> bool:
        """Whether the skip of input block `index` has all rows of a map of another size."""
        first = self._context.call.whole_skips_from
        return first is not None and index >= first

    def is_whole(self) -> bool:
        """See `AllRows.is_whole`."""
        return self._context.call.holds_all

    def whole_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `AllRows.whole_options`."""
        batch, channels, _, width = options["activations_shape"]
        return {**options, "activations_shape": [batch, channels, self._context.rows.height, width]}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `AllRows.whole`."""
        call = self._context.call
        before, call.holds_all = call.holds_all, True
        try:
            yield
        finally:
            call.holds_all = before

    def whole_shape(self, shape: Sequence[int], layer: Any) -> list[int]:
        """See `AllRows.whole_shape`."""
        context, call = self._context, self._context.call
        rows = context.rows
        if call.whole_skips_from is not None and self._is_whole_skip(self._skip - 1):
            return list(shape)
        if is_upsample(layer, context.plan) or shape[-2] != rows.chunk(context.shard_index):
            rows = call.levels[call.level - 1]
        return [*shape[:-2], rows.height, shape[-1]]

    def local_control(self, control: Tensor) -> Tensor | None:
        """The local rows of a control tensor; None for one that does not fit, where the model does not add such."""
        context, call = self._context, self._context.call
        if call.whole_skips_from is not None:
            of_skip = call.options["block"][0] == "output"
            if not of_skip or self._is_whole_skip(self._skip):
                return control
        if control.shape[-2] != context.rows.height:
            if not context.plan.resizes_control:
                return None
            size = context.rows.height, control.shape[-1]  # the model itself resizes the width
            control = nn.functional.interpolate(control, size, mode="bilinear", align_corners=True)
        return self.cut(control)
