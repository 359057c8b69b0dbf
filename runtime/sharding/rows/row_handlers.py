"""The handlers of a row plan: what is done at each kind of module of a UNet.

B batch, C channels, H all rows, R local rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...compression.wire import Tag
from ..handler import Changed, HookSite, ModuleHandler
from ..prefix_attention import attend_with_prefix
from ..token_context import in_place
from .halo_ops import HaloOps
from .row_context import RowContext
from .row_effects import named
from .row_layout import levels_of
from .row_patches import added_later, inside
from .row_view import RowView

SEES_ALL = (
    "Patches of this workflow change self-attention, and must see the whole picture there: every worker runs those "
    "transformers on all of it. Step Reuse, and cfg_degree where CFG is above 1, save more time with them than "
    "ring_degree does."
)


class RowHandler(ModuleHandler):
    """Works at one module of a UNet."""

    context: RowContext


class SplitRowsHandler(RowHandler):
    """At the first layer that is given the picture: cuts it to the local rows."""

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`."""
        x_BCHW, context = args[0], self.context
        context.call.levels = levels_of(x_BCHW.shape[-2], context.downs, context.attention.shards)
        return (context.cut(x_BCHW), *args[1:]), kwargs


class GatherRowsHandler(RowHandler):
    """At the last layer: gathers the rows."""

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """See `ModuleHandler.post_hook`."""
        context = self.context
        context.call.gathered = True
        if context.keeps_local:
            return in_place(output, output.ndim - 2, context.rows.height, *context.rows.rows(context.shard_index))
        if context.call.whole_skips_from is not None:
            context.check(output, context.rows.height)
            raise context.plan.refuse("a patch that makes a feature map of other rows behind the last block")
        return context.gather(output, self.site.path)


class SpanningHandler(RowHandler):
    """At a convolution or norm: gives it a halo, or the statistics of all ranks, and follows the resolution."""

    always = True

    def __init__(self, site: HookSite, context: RowContext) -> None:
        super().__init__(site, context)
        self._ops: HaloOps | None = None

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `ModuleHandler.pre_hook`."""
        context, call = self.context, self.context.call
        if call.holds_all:
            return
        below = call.levels[call.level + 1] if call.level < context.downs else None
        self._ops = HaloOps(context.exchange, context.rows, below, context.plan.refuse)
        self._ops.__enter__()

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See `ModuleHandler.post_hook`. Raises Unsupported where the module has not called torch's own functions."""
        ops, self._ops = self._ops, None
        if ops is not None:
            ops.__exit__(None, None, None)
            if output is not None and not ops.calls:
                raise self.context.plan.refuse(f"{self.site.path}, which does not go through torch's own functions")
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.stride[-2] > 1:
            self.context.call.level += 1


class UpsampleHandler(RowHandler):
    """At a module that makes maps of the next higher resolution."""

    def __init__(self, site: HookSite, context: RowContext, view: RowView) -> None:
        super().__init__(site, context)
        self._view = view

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`."""
        shape = self.given(args, kwargs)("output_shape")
        changed = None
        if self.context.call.holds_all and shape is not None:
            changed = self.with_argument("output_shape", self._view.whole_shape(shape, module), args, kwargs)
        self.context.call.level -= 1
        return changed


class AllRowsHandler(RowHandler):
    """At a layer that takes a map and returns one: runs it on all rows, and cuts its output again."""

    def __init__(self, site: HookSite, context: RowContext) -> None:
        super().__init__(site, context)
        self._gathered = False

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`."""
        self._gathered = not self.context.call.holds_all
        if not self._gathered:
            return None
        x_BCHW = self.context.gather(args[0], self.site.path)
        self.context.call.holds_all = True
        return (x_BCHW, *args[1:]), kwargs

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """See `ModuleHandler.post_hook`."""
        if not self._gathered:
            return None
        self._gathered = self.context.call.holds_all = False
        return self.context.cut(output)


class TransformerHandler(AllRowsHandler):
    """At a transformer: runs it on all rows where patches inside it must see them."""

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Changed:
        """See `ModuleHandler.pre_hook`. Raises Unsupported for a patch that was added while the model runs."""
        context = self.context
        options = self.given(args, kwargs)("transformer_options") or {}
        late = added_later(options)
        if late:
            raise context.plan.refuse(f"a patch ({late}) that is added while the model runs")
        context.call.width = args[0].shape[-1]
        self._gathered = False
        if context.call.holds_all or not inside(options, over_frames=named(module) in context.plan.over_frames):
            return None
        context.attention.ledger.warn(SEES_ALL)
        return super().pre_hook(module, args, kwargs)


class SelfAttentionHandler(RowHandler):
    """At an attention module inside a transformer: attends to the tokens of all rows, unless it attends to a text."""

    def __init__(self, site: HookSite, context: RowContext) -> None:
        super().__init__(site, context)
        self._name, self._attended = "", 0

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `ModuleHandler.pre_hook`."""
        if not self.context.call.holds_all and self.given(args, kwargs)("context") is None:
            self._name, self._attended = self.context.call.names.unique(self.site.path), 0
            self.context.call.scope = self

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See `ModuleHandler.post_hook`. Raises Unsupported where the module did not attend."""
        is_scope = self.context.call.scope is self
        self.context.call.scope = None
        if is_scope and not self._attended:
            raise self.context.plan.refuse_unseen_attention()

    def attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attention called inside the module; the arguments are those of ComfyUI's attention functions.

        Raises Unsupported for a second call, or for a number of tokens that is not expected.
        """
        context = self.context
        self._attended += 1
        layout, has_text = context.tokens, context.plan.text_in_attention
        dim = 2 if kwargs.get("skip_reshape") else 1
        expected = (len(context.call.slots), layout.chunk(context.shard_index))
        for x in (q,) if has_text else (q, k):
            if (x.shape[0], x.shape[dim]) != expected or self._attended > 1:
                raise context.plan.refuse(
                    f"attention over (batch, tokens) {(x.shape[0], x.shape[dim])} where {expected} were expected once"
                )
        attend: Callable[..., Tensor] = context.attention
        if has_text:
            attend = partial(attend_with_prefix, attend)
            k, v = (x.roll(-expected[1], dim) for x in (k, v))
        return attend(func, q, k, v, layout=layout, tag=Tag(self._name, "kv", context.call.slots), **kwargs)
