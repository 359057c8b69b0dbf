"""Row sharding: applies a row plan to an unchanged UNet, by hooks that stay for as long as a job lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ...attention.sequence_attention import SequenceAttention
from ...attention.unsupported import Unsupported
from ..handler import HookSite
from ..hooks import Hooked
from ..modified_modules import holds
from ..module_arguments import argument, replaced
from ..parameters import positions
from .local_control_rows import local_control
from .row_call import RowCall
from .row_context import RowContext
from .row_effects import downs_of, is_upsample, lowest_rows, named, refused_module, spans_rows
from .row_exchange import RowExchange
from .row_handlers import (
    AllRowsHandler,
    GatherRowsHandler,
    RowHandler,
    SelfAttentionHandler,
    SpanningHandler,
    SplitRowsHandler,
    TransformerHandler,
    UpsampleHandler,
)
from .row_patches import unknown, with_all_rows
from .row_plan import RowPlan
from .row_view import RowView

RUNS_WHOLE = (
    "A workflow has put code of its own into {}: every worker runs {} layers of the model on the whole picture. "
    "Step Reuse, and cfg_degree where CFG is above 1, lose nothing by it."
)


class RowSharding(Hooked):
    """A UNet whose rows are split over the ranks as its plan says; see `Hooked`."""

    runs_compiled = False
    plan: RowPlan

    def __init__(self, module: nn.Module, plan: RowPlan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        if attention.ulysses.size > 1 and attention.ring.size > 1:
            raise Unsupported(
                f"The rows of a {plan.family} are split along one axis, and ring_degree is {attention.ring.size} and "
                f"ulysses_degree is {attention.ulysses.size}; set ring_degree to {attention.shards} and the other to 1."
            )
        axis = attention.ring if attention.ring.size > 1 else attention.ulysses
        self._exchange = RowExchange(axis, attention.ledger)
        self._context = RowContext(plan, attention, self._exchange)
        self._view = RowView(self._context)

    def _attach(self) -> None:
        """See `Hooked._attach`. Also raises Unsupported for a module whose effect on rows is not known."""
        changed = self._changed_layers()
        for path, module in self.module.named_modules():
            what = refused_module(module, self.plan)
            if what and not any(holds(layer, path) for layer in changed):
                raise self.plan.refuse(f"{what} ({path})")
        self._check_parameters()
        self._set_up()
        (first,), (last,) = self._resolve(self.plan.first), self._resolve(self.plan.last)

        self._first_of_all(self.called)
        self._attach_preferences()
        self._attach_handler(SplitRowsHandler(site_of(*first), self._context))
        for layer in changed.items():
            self._attach_handler(AllRowsHandler(site_of(*layer), self._context))
        for found in self.module.named_modules():
            for handler in self._handlers_of(*found):
                self._attach_handler(handler)
        self._attach_handler(GatherRowsHandler(site_of(*last), self._context))
        self._post_hook(self.called, self._end)

    def _set_up(self) -> None:
        context = self._context
        context.plan, context.attention, context.exchange = self.plan, self.attention, self._exchange
        context.skips = len(self._resolve(self.plan.skips)) if self.plan.skips else 0
        context.downs = downs_of(self.module)

    def _handlers_of(self, path: str, module: nn.Module) -> Iterator[RowHandler]:
        """The handlers for what a module does to rows."""
        if spans_rows(module, self.plan):
            yield SpanningHandler(site_of(path, module), self._context)
        if is_upsample(module, self.plan):
            yield UpsampleHandler(site_of(path, module), self._context, self._view)
        if named(module) in self.plan.transformers:
            yield TransformerHandler(site_of(path, module), self._context)
            for inner in self.plan.self_attention:
                for attention in self._resolve(f"{path}.{inner}"):
                    yield SelfAttentionHandler(site_of(*attention), self._context)

    def _changed_layers(self) -> dict[str, nn.Module]:
        """The layers that hold code of the workflow's own. Raises Unsupported for such code outside of the layers."""
        layers = dict(found for path in self.plan.layers for found in self._resolve(path))
        changed = {}
        for path in self._changed:
            within = {name: each for name, each in layers.items() if holds(name, path) or (path and holds(path, name))}
            if not within and not any(holds(each, path) for each in self.plan.without_rows):
                raise self.plan.refuse(f"code of the workflow's own in place of the model's ({path or 'forward'})")
            changed |= within
        if changed:
            self.attention.ledger.warn(RUNS_WHOLE.format(self._changed[0], len(changed)))
        return changed

    def detach(self) -> None:
        """Removes the hooks and forgets the last call."""
        super().detach()
        self._context.call = RowCall()

    @property
    def cuts_control(self) -> bool:
        """See `Hooked.cuts_control`."""
        return True

    @property
    def _asleep(self) -> bool:
        return self._context.call.unsplit

    def _start(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._context.call = call = RowCall(self._slots)
        places = positions(module)
        options = argument("transformer_options", places, args, kwargs) or {}
        given = {**dict(zip(places, args)), **kwargs, "self": module}
        batch, *_, height, _ = given["x"].shape
        refused = self._refused(given)
        if batch != len(self._slots):
            refused = f"{batch} batch entries where {len(self._slots)} were expected"
        for kind in sorted(unknown(options))[:1]:
            refused = f"a patch of the kind {kind}"
        if self._runs_whole(refused) or self._has_too_few_rows(height):
            call.unsplit = True
            return args, kwargs
        if options:
            call.options = with_all_rows(options, self._view)
            args, kwargs = replaced("transformer_options", places, args, kwargs, call.options)
        control = argument("control", places, args, kwargs)
        if control is None:
            return args, kwargs
        return replaced("control", places, args, kwargs, local_control(control, self._view.local_control))

    def _has_too_few_rows(self, height: int) -> bool:
        """Whether some rank would hold no row of a latent of this height at the lowest resolution."""
        shards = self.attention.shards
        too_few = lowest_rows(self.module, height) < shards
        if too_few:
            self._warn_whole(f"a latent of {height} rows on {shards} workers")
        return too_few

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = self._context.call.levels and not self._context.call.gathered
        self._context.call = RowCall()
        if unfinished:
            raise self.plan.refuse_unrun("last layer")

    def _splits_attention(self) -> bool:
        return self._context.call.scope is not None

    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        return self._context.call.scope.attend(func, q=q, k=k, v=v, **kwargs)


def site_of(path: str, module: nn.Module) -> HookSite:
    """A module of the model, as the handlers know it."""
    return HookSite(path, module, positions(module))
