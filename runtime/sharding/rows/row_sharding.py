"""Row sharding: applies a row plan to an unchanged UNet, by hooks that stay for as long as a job lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...attention.errors import Unsupported
from ...attention.sequence import SequenceAttention
from ...compression.wire import Tag
from ..hooks import Hooked
from ..modified_modules import holds
from ..module_arguments import argument, replaced
from ..parameters import positions
from ..prefix_attention import attend_with_prefix
from .halo_ops import HaloOps
from .local_rows import own_control
from .row_effects import downs_of, is_upsample, lowest_rows, named, refused_module, spans_rows
from .row_exchange import RowExchange
from .row_layout import RowLayout, levels_of
from .row_patches import added_later, inside, unknown, with_all_rows
from .row_plan import RowPlan

SEES_ALL = (
    "Patches of this workflow change self-attention, and must see the whole picture there: every worker runs those "
    "transformers on all of it. Step Reuse, and cfg_degree where CFG is above 1, save more time with them than "
    "ring_degree does."
)


@dataclass
class _Forward:
    """The state of one forward of the model. `unsplit`: nothing is split in it."""

    unsplit: bool = False
    levels: list[RowLayout] = field(default_factory=list)
    level: int = 0
    gathered: bool = False
    whole: bool = False
    whole_for: nn.Module | None = None
    width: int = 0
    scope: str | None = None
    scope_calls: int = 0
    functions: HaloOps | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    whole_skips_from: int | None = None


RUNS_WHOLE = (
    "A workflow has put code of its own into {}: every worker runs {} layers of the model on the whole picture. "
    "Step Reuse, and cfg_degree where CFG is above 1, lose nothing by it."
)


class RowSharding(Hooked):
    """A UNet whose rows are split over the ranks as its plan says; see `Hooked`. Also the `View` of its patches."""

    runs_compiled = False

    def __init__(self, module: nn.Module, plan: RowPlan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        if attention.ulysses.size > 1 and attention.ring.size > 1:
            raise Unsupported(
                f"The rows of a {plan.family} are split along one axis, and ring_degree is {attention.ring.size} and "
                f"ulysses_degree is {attention.ulysses.size}; set ring_degree to {attention.shards} and the other to 1."
            )
        axis = attention.ring if attention.ring.size > 1 else attention.ulysses
        self._exchange = RowExchange(axis, attention.ledger)
        self._downs = self._skips = 0
        self._forward = _Forward()

    def _attach(self) -> None:
        """See `Hooked._attach`. Also raises Unsupported for a module whose effect on rows is not known."""
        changed = self._changed_layers()
        for path, module in self.module.named_modules():
            what = refused_module(module, self.plan)
            if what and not any(holds(layer, path) for layer in changed):
                raise self.plan.refuse(f"{what} ({path})")
        self._check_parameters()
        self._skips = len(self._resolve(self.plan.skips)) if self.plan.skips else 0
        self._downs = downs_of(self.module)
        ((_, first),), ((last_path, last),) = self._resolve(self.plan.first), self._resolve(self.plan.last)
        self._first_of_all(self.module)
        self._attach_preferences()
        self._before(first, self._split)
        for path, module in changed.items():
            self._before(module, partial(self._enter_layer, path))
            self._behind(module, self._leave_whole)
        for path, module in self.module.named_modules():
            self._attach_module(path, module)
        self._behind(last, partial(self._gather, last_path))
        self._behind(self.module, self._end)

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

    def _attach_module(self, path: str, module: nn.Module) -> None:
        if spans_rows(module, self.plan):
            self._before(module, self._enter_functions)
            self._behind(module, partial(self._leave_functions, path), always_call=True)
        if is_upsample(module, self.plan):
            self._before(module, self._to_higher_level)
        if named(module) in self.plan.transformers:
            self._before(module, partial(self._enter_transformer, path, positions(module)))
            self._behind(module, self._leave_whole)
            for inner in self.plan.self_attention:
                for attention_path, attention in self._resolve(f"{path}.{inner}"):
                    self._before(attention, partial(self._enter_attention, attention_path, positions(attention)))
                    self._behind(attention, self._leave_attention)

    def detach(self) -> None:
        """Removes the hooks and forgets the last forward."""
        super().detach()
        self._forward = _Forward()

    def gathered(self, x_BCRW: Tensor, what: str) -> Tensor:
        """See `View.gathered`."""
        self._check(x_BCRW, self._rows.chunk(self.attention.shard_index))
        tag = Tag(self._named(what), "rows", self._slots, sensitive=True)
        return self.attention.gather_tokens(x_BCRW, self._rows, x_BCRW.ndim - 2, tag)

    def all_rows(self, x_BCRW: Tensor, what: str) -> Tensor:
        """See `View.all_rows`."""
        return x_BCRW if self._forward.whole else self.gathered(x_BCRW, what)

    def all_rows_of_skip(self, x_BCRW: Tensor) -> Tensor:
        """See `View.all_rows_of_skip`."""
        return x_BCRW if self._is_whole_skip(self._skip) else self.gathered(x_BCRW, "skip")

    def put(self, x_BCHW: Tensor, first_skip: int | None = None) -> Tensor:
        """See `View.put`."""
        forward = self._forward
        if not forward.whole:
            if x_BCHW.shape[-2] == self._rows.height:
                return self.cut(x_BCHW)
            forward.whole, forward.whole_skips_from = True, self._skips if first_skip is None else first_skip
        return x_BCHW

    def put_with_skip(self, x_BCHW: Tensor, skip_BCHW: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `View.put_with_skip`."""
        forward = self._forward
        if x_BCHW.shape[-2] != self._rows.height or self._is_whole_skip(self._skip - 1):
            return self.put(x_BCHW), skip_BCHW
        forward.whole, forward.whole_skips_from = False, None
        return self.cut(x_BCHW), None if skip_BCHW is None else self.cut(skip_BCHW)

    @property
    def _skip(self) -> int:
        """The index of the input block whose skip the running output block gets."""
        return self._skips - 1 - self._forward.options["block"][1]

    def _is_whole_skip(self, index: int) -> bool:
        """Whether the skip of input block `index` has all rows of a map of another size."""
        first = self._forward.whole_skips_from
        return first is not None and index >= first

    def cut(self, x_BCHW: Tensor) -> Tensor:
        """See `View.cut`."""
        self._check(x_BCHW, self._rows.height)
        first, last = self._rows.rows(self.attention.shard_index)
        return x_BCHW.narrow(-2, first, last - first).contiguous()

    def gathered_tokens(self, x_BLC: Tensor, what: str) -> Tensor:
        """See `View.gathered_tokens`."""
        layout = self._tokens()
        self._check_tokens(x_BLC, layout.chunk(self.attention.shard_index))
        tag = Tag(self._named(what), "tokens", self._slots, sensitive=True)
        return self.attention.gather_tokens(x_BLC, layout, 1, tag)

    def cut_tokens(self, x_BNC: Tensor) -> Tensor:
        """See `View.cut_tokens`."""
        layout = self._tokens()
        self._check_tokens(x_BNC, layout.total)
        return layout.split(x_BNC, 0, 1, self.attention.shard_index)

    def is_whole(self) -> bool:
        """See `View.is_whole`."""
        return self._forward.whole

    def whole_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `View.whole_options`."""
        batch, channels, _, width = options["activations_shape"]
        return {**options, "activations_shape": [batch, channels, self._rows.height, width]}

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `View.whole`."""
        before, self._forward.whole = self._forward.whole, True
        try:
            yield
        finally:
            self._forward.whole = before

    def whole_shape(self, shape: Sequence[int], layer: Any) -> list[int]:
        """See `View.whole_shape`."""
        forward, rows = self._forward, self._rows
        if forward.whole_skips_from is not None and self._is_whole_skip(self._skip - 1):
            return list(shape)
        if is_upsample(layer, self.plan) or shape[-2] != rows.chunk(self.attention.shard_index):
            rows = forward.levels[forward.level - 1]
        return [*shape[:-2], rows.height, shape[-1]]

    @property
    def _rows(self) -> RowLayout:
        if not self._forward.levels:
            raise self.plan.refuse_unrun("first layer")
        return self._forward.levels[self._forward.level]

    def _cut_residual(self, residual: Tensor) -> Tensor | None:
        """The local rows of a control tensor; None for one that does not fit, where the model does not add such."""
        if self._forward.whole_skips_from is not None:
            of_skip = self._forward.options["block"][0] == "output"
            if not of_skip or self._is_whole_skip(self._skip):
                return residual
        if residual.shape[-2] != self._rows.height:
            if not self.plan.resizes_control:
                return None
            size = self._rows.height, residual.shape[-1]  # the model itself resizes the width
            residual = nn.functional.interpolate(residual, size, mode="bilinear", align_corners=True)
        return self.cut(residual)

    def _tokens(self) -> RowLayout:
        return self._rows.tokens(self._forward.width)

    def _check_tokens(self, x_BNC: Tensor, tokens: int) -> None:
        if x_BNC.shape[1] != tokens:
            raise self.plan.refuse(
                f"a patch inside a transformer that makes {x_BNC.shape[1]} tokens of {tokens}, or of those of one frame"
            )

    def _check(self, x: Tensor, rows: int) -> None:
        if x.shape[-2] != rows:
            raise self.plan.refuse(f"a patch that makes a feature map of {x.shape[-2]} rows where {rows} were expected")

    @property
    def cuts_control(self) -> bool:
        """See `Hooked.cuts_control`."""
        return True

    @property
    def _asleep(self) -> bool:
        return self._forward.unsplit

    def _start(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._forward = _Forward()
        self._entered.clear()
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
            self._forward.unsplit = True
            return args, kwargs
        if options:
            self._forward.options = with_all_rows(options, self)
            args, kwargs = replaced("transformer_options", places, args, kwargs, self._forward.options)
        control = argument("control", places, args, kwargs)
        if control is None:
            return args, kwargs
        return replaced("control", places, args, kwargs, own_control(control, self._cut_residual))

    def _has_too_few_rows(self, height: int) -> bool:
        """Whether some rank would hold no row of a latent of this height at the lowest resolution."""
        parts = self.attention.shards
        too_few = lowest_rows(self.module, height) < parts
        if too_few:
            self._warn_whole(f"a latent of {height} rows on {parts} workers")
        return too_few

    def _split(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x_BCHW, parts = args[0], self.attention.shards
        self._forward.levels = levels_of(x_BCHW.shape[-2], self._downs, parts)
        return (self.cut(x_BCHW), *args[1:]), kwargs

    def _gather(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self._forward.gathered = True
        if self._forward.whole_skips_from is not None:
            self._check(output, self._rows.height)
            raise self.plan.refuse("a patch that makes a feature map of other rows behind the last block")
        return self.gathered(output, path)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = self._forward.levels and not self._forward.gathered
        self._forward = _Forward()
        if unfinished:
            raise self.plan.refuse_unrun("last layer")

    def _enter_functions(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        forward = self._forward
        if forward.whole:
            return
        below = forward.levels[forward.level + 1] if forward.level < self._downs else None
        functions = HaloOps(self._exchange, self._rows, below, self.plan.refuse)
        functions.__enter__()
        forward.functions = functions

    def _leave_functions(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        forward, functions = self._forward, self._forward.functions
        if functions is not None:
            forward.functions = None
            functions.__exit__(None, None, None)
            if output is not None and not functions.calls:
                raise self.plan.refuse(f"{path}, which does not go through torch's own functions")
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.stride[-2] > 1:
            forward.level += 1

    def _to_higher_level(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        places = positions(module)
        shape = argument("output_shape", places, args, kwargs)
        changed = None
        if self._forward.whole and shape is not None:
            changed = replaced("output_shape", places, args, kwargs, self.whole_shape(shape, module))
        self._forward.level -= 1
        return changed

    def _enter_layer(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._forward.whole:
            return None
        x_BCHW = self.gathered(args[0], path)
        self._forward.whole, self._forward.whole_for = True, module
        return (x_BCHW, *args[1:]), kwargs

    def _enter_transformer(
        self, path: str, places: Mapping[str, int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        options = argument("transformer_options", places, args, kwargs) or {}
        late = added_later(options)
        if late:
            raise self.plan.refuse(f"a patch ({late}) that is added while the model runs")
        self._forward.width = args[0].shape[-1]
        if self._forward.whole or not inside(options, over_frames=named(module) in self.plan.over_frames):
            return None
        self.attention.ledger.warn(SEES_ALL)
        return self._enter_layer(path, module, args, kwargs)

    def _leave_whole(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._forward.whole_for is not module:
            return output
        self._forward.whole, self._forward.whole_for = False, None
        return self.cut(output)

    def _enter_attention(
        self, path: str, places: Mapping[str, int], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._forward.whole and argument("context", places, args, kwargs) is None:
            self._forward.scope, self._forward.scope_calls = self._named(path), 0

    def _leave_attention(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        missed = self._forward.scope is not None and not self._forward.scope_calls
        self._forward.scope = None
        if missed:
            raise self.plan.refuse_unseen_attention()

    def _splits_attention(self) -> bool:
        return self._forward.scope is not None

    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        forward = self._forward
        forward.scope_calls += 1
        layout = self._tokens()
        dim, own = 2 if kwargs.get("skip_reshape") else 1, (len(self._slots), layout.chunk(self.attention.shard_index))
        for x in (q,) if self.plan.text_in_attention else (q, k):
            if (x.shape[0], x.shape[dim]) != own or forward.scope_calls > 1:
                raise self.plan.refuse(
                    f"attention over (batch, tokens) {(x.shape[0], x.shape[dim])} where {own} were expected once"
                )
        attend = self.attention
        if self.plan.text_in_attention:
            attend = partial(attend_with_prefix, attend)
            k, v = (x.roll(-own[1], dim) for x in (k, v))
        return attend(func, q, k, v, layout=layout, tag=Tag(forward.scope, "kv", self._slots), **kwargs)
