"""The one reader of plans: hooks on an unchanged model, for as long as a job lasts.

B batch, L own tokens, N all tokens, C channels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.layout import TokenLayout
from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag
from .arguments import argument, positions, replaced
from .hooks import Hooked, Slots
from .own import Own, local_control
from .patches import between_blocks
from .plan import (
    Action,
    AttentionScope,
    Blocks,
    Gather,
    KeyMask,
    Localise,
    Plan,
    Residuals,
    Split,
    SplitJoint,
    Unsupported,
    Whole,
)


def batch_slots(options: Mapping[str, Any], batch: int) -> Slots:
    """(cond, sample) of every batch entry; ComfyUI stacks the conds of a call, each with all its samples.

    A uuid alone does not name a cond: for every cond with an area ComfyUI makes one of the other predictions with the
    same area and the same uuid (create_cond_with_same_area_if_none), and evaluates both in one batch. And each context
    window shows the same cond other frames.

    Args:
        options: transformer_options. "uuids" has one entry per cond in the call, "cond_or_uncond" the number of the
            prediction it is for; a caller that gives neither evaluates one cond. "context_window" has the frames.
        batch: B, a multiple of their number.
    Raises:
        Unsupported: a wrapper has taken the batch apart.
    """
    uuids = options.get("uuids") or [""]
    predictions = options.get("cond_or_uncond") or [0] * len(uuids)
    samples, rest = divmod(batch, len(uuids))
    if rest:
        raise Unsupported(
            f"A patch of this workflow evaluates {batch} of the batch entries of {len(uuids)} conditions at a time; "
            "set ulysses_degree and ring_degree to 1 (cfg_degree still works)."
        )
    frames = getattr(options.get("context_window"), "index_list", "")
    conds = [f"{prediction} {uuid} {frames}".rstrip() for prediction, uuid in zip(predictions, uuids)]
    return tuple((cond, sample) for cond in conds for sample in range(samples))


@dataclass
class _Forward:
    """What is known of one forward of the model."""

    lengths: dict[str, int] = field(default_factory=dict)
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    whole_between: bool = False
    gathered: bool = False
    scope: AttentionScope | None = None
    scope_module: nn.Module | None = None
    scope_path: str = ""
    scope_calls: int = 0
    key_mask: Tensor | None = None
    copies: dict[tuple[int, Any], tuple[Any, Any]] = field(default_factory=dict)


class Sharding(Hooked):
    """A model whose tokens are split by a plan; see `Hooked`."""

    def __init__(self, module: nn.Module, plan: Plan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        self._forward = _Forward()
        self._callers: dict[str, Callable[..., Tensor]] = {}

    def attach(self) -> None:
        """See `Hooked.attach`."""
        guards = [(guard, module) for guard in self.plan.guards for _, module in self._resolve(guard.path)]
        actions = [(action, *found) for action in self.plan.actions for found in self._resolve(action.path)]
        blocks = [(each, *found) for each in self.plan.blocks for found in self._resolve(each.path)]
        self._before(self.module, self._start)
        self._handles.append(self.module.register_forward_hook(self._end))
        self._attach_guards(guards)
        for each, path, module in blocks:
            for name, segments, _ in each.tokens:
                split = partial(self._change_argument, name, partial(self._split_block, segments))
                self._before(module, partial(split, positions(module)))
            self._handles.append(module.register_forward_hook(partial(self._gather_block, each, path)))
        for action, path, module in actions:
            self._attach_action(action, path, module)
        for name in {getattr(action, "caller", None) for action in self.plan.actions} - {None}:
            self._callers[name] = function = sys.modules[name].optimized_attention
            sys.modules[name].optimized_attention = partial(self._override, function)

    def detach(self) -> None:
        """Takes the hooks off again and forgets the last forward."""
        super().detach()
        for name, function in self._callers.items():
            sys.modules[name].optimized_attention = function
        self._callers.clear()
        self._forward = _Forward()

    def _splits_attention(self) -> bool:
        return self._forward.scope is not None

    def _attach_action(self, action: Action, path: str, module: nn.Module) -> None:
        match action:
            case Split() | SplitJoint() | Localise() | KeyMask() | Residuals():
                change = {
                    Split: self._split,
                    SplitJoint: self._split_joint,
                    Localise: self._localise,
                    KeyMask: self._take_mask,
                    Residuals: self._cut_residuals,
                }[type(action)]
                hook = partial(self._change_argument, action.arg, partial(change, action), positions(module))
                self._before(module, hook)
            case AttentionScope():
                self._handles.append(module.register_forward_pre_hook(partial(self._enter_scope, action, path)))
                self._handles.append(module.register_forward_hook(self._leave_scope))
            case Whole():
                hook = partial(self._change_argument, action.arg, partial(self._whole, action, path), positions(module))
                self._before(module, hook)
                if action.cut:
                    self._handles.append(module.register_forward_hook(partial(self._cut, action)))
            case Gather():
                self._handles.append(module.register_forward_hook(partial(self._gather, action, path)))

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(positions(module), args)), **kwargs}
        self._entered.clear()
        self._forward = _Forward(whole_between=bool(self.plan.blocks) and between_blocks(given))

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = bool(self._forward.lengths) and not self._forward.gathered
        self._forward = _Forward()
        if unfinished:
            raise self.plan.refuse("a patch that keeps its last layer from running")

    def _change_argument(
        self,
        name: str | int,
        change: Callable[[Any, Callable[[str], Any]], Any],
        places: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        x = argument(name, places, args, kwargs)
        changed = change(x, lambda other: argument(other, places, args, kwargs))
        return None if changed is x else replaced(name, places, args, kwargs, changed)

    def _split(self, action: Split, x: Tensor | None, given: Callable[[str], Any]) -> Tensor:
        if x is None:
            raise self.plan.refuse(f"no {action.segment} tokens")
        if self._forward.whole_between:
            return x
        if action.item is not None:
            own = self._split(replace(action, item=None), x[action.item], given)
            return (*x[: action.item], own, *x[action.item + 1 :])
        if action.until is not None:
            x = x.narrow(action.dim, 0, min(x.shape[action.dim], given(action.until)))
        if action.grid > 1:
            last = action.dim + action.grid - 1
            self._forward.grids[action.segment] = x.shape[action.dim : last + 1]
            x = x.flatten(action.dim, last)[(slice(None),) * (action.dim + 1) + (None,) * (action.grid - 1)]
        return self._own_segment(x, action.segment, action.dim)

    def _own_segment(self, x: Tensor, segment: str, dim: int) -> Tensor:
        length, parts = x.shape[dim], self.attention.parts
        if length < parts:
            raise self.plan.refuse(f"{length} {segment} tokens on {parts} ranks")
        self._forward.lengths[segment] = length
        return TokenLayout((length,), parts).split(x, 0, dim, self.attention.part)

    def _split_block(self, segments: tuple[str, ...], x: Tensor | None, given: Callable[[str], Any]) -> Tensor | None:
        if not self._forward.whole_between or x is None:
            return x
        if len(segments) == 1:
            return self._own_segment(x, segments[0], 1)
        return self._layout(segments).split_joint(x, 1, self.attention.part)

    def _gather_block(self, blocks: Blocks, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._forward.whole_between:
            return output
        outputs = list(output) if isinstance(output, tuple) else [output]
        for _, segments, place in blocks.tokens:
            x = outputs[place or 0]
            if x is not None:
                tag = Tag(path, f"tokens {' '.join(segments)}", self._slots, sensitive=True)
                outputs[place or 0] = self.attention.gather_tokens(x, self._layout(segments), 1, tag)
        self._forward.gathered = True
        return tuple(outputs) if isinstance(output, tuple) else outputs[0]

    def _split_joint(self, action: SplitJoint, x: Tensor | None, given: Callable[[str], Any]) -> Tensor | None:
        if x is None:
            return None
        layout = self._layout(self.plan.joint)
        if x.shape[action.dim] != layout.total:
            raise self.plan.refuse(f"{action.arg} for {x.shape[action.dim]} of {layout.total} tokens")
        return self._once(x, action.dim, lambda: layout.split_joint(x, action.dim, self.attention.part))

    def _localise(self, action: Localise, value: Any, given: Callable[[str], Any]) -> Any:
        if value is None or (self._forward.whole_between and action.outside):
            return value
        what = (action.local, action.segments)
        return self._once(value, what, lambda: action.local(value, self._own(action.segments)))

    def _take_mask(self, action: KeyMask, mask: Tensor | None, given: Callable[[str], Any]) -> None:
        if mask is None:
            return
        layout, index = self._layout(self.plan.joint), self.plan.joint.index(action.segment)
        before, length = sum(layout.lengths[:index]), layout.lengths[index]
        if mask.shape[-1] != length:
            raise self.plan.refuse(f"{action.arg} for {mask.shape[-1]} of {length} {action.segment} tokens")
        self._forward.key_mask = nn.functional.pad(mask, (before, layout.total - before - length))[:, None]

    def _cut_residuals(
        self, action: Residuals, control: Mapping[str, Any] | None, given: Callable[[str], Any]
    ) -> dict[str, Any] | None:
        if control is None or self._forward.whole_between:
            return control
        return local_control(control, lambda: self._own((action.segment,)), action.dim)

    def _whole(self, action: Whole, path: str, x: Tensor, given: Callable[[str], Any]) -> Tensor:
        if self._forward.whole_between and action.outside:
            return x
        tag = Tag(self._named(path), "tokens", self._slots, sensitive=True)
        return self.attention.gather_tokens(x, self._layout((action.segment,)), 1, tag)

    def _cut(self, action: Whole, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        if self._forward.whole_between and action.outside:
            return output
        return self._own((action.segment,)).tokens(output)

    def _own(self, segments: tuple[str, ...]) -> Own:
        return Own(self._layout(segments), self.attention.part, self._forward.whole_between)

    def _once(self, value: Any, what: Any, make: Callable[[], Any]) -> Any:
        """What was made of this value in this forward, or `make` now. Keeps the value, whose id must stay its own."""
        key = (id(value), what)
        if key not in self._forward.copies:
            self._forward.copies[key] = (value, make())
        return self._forward.copies[key][1]

    def _enter_scope(self, action: AttentionScope, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._forward.scope, self._forward.scope_module = action, module
        self._forward.scope_path, self._forward.scope_calls = self._named(path), 0

    def _leave_scope(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._forward.scope = None
        if not self._forward.scope_calls:
            raise self.plan.refuse("an attention that does not go through ComfyUI's attention functions")

    def _gather(self, action: Gather, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._forward.whole_between:
            return output
        if action.item is not None:
            x = self._gather(replace(action, item=None), path, module, args, output[action.item])
            return (*output[: action.item], x, *output[action.item + 1 :])
        self._forward.gathered = True
        tag = Tag(path, "tokens", self._slots, sensitive=True)
        kept = sum(self._layout(action.behind).local(self.attention.part)) if action.behind else 0
        own = output.narrow(action.dim, kept, output.shape[action.dim] - kept)
        layout = self._layout(action.segments)
        if own.shape[action.dim] != layout.chunk(self.attention.part):
            raise self.plan.refuse("a patch that changes the number of tokens")
        x = self.attention.gather_tokens(own, layout, action.dim, tag)
        grid = self._forward.grids.get(action.segments[0])
        if grid:
            return x.reshape(*x.shape[: action.dim], *grid, *x.shape[action.dim + len(grid) :])
        return torch.cat([output.narrow(action.dim, 0, kept), x], action.dim) if kept else x

    def _layout(self, segments: tuple[str, ...]) -> TokenLayout:
        lengths = self._forward.lengths
        if any(segment not in lengths for segment in self.plan.joint):
            raise self.plan.refuse("a patch that keeps its first block from running")
        return TokenLayout(tuple(lengths[segment] for segment in segments), self.attention.parts)

    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        forward, call = self._forward, self._forward.scope_calls
        forward.scope_calls += 1
        if call == len(forward.scope.calls):
            raise self.plan.refuse(f"more than {call} attention calls in {forward.scope_path}")
        layout = self._layout(forward.scope.calls[call])
        dim = 2 if kwargs.get("skip_reshape") else 1
        expected = (len(self._slots), layout.chunk(self.attention.part))
        for x in (q, k):
            if (x.shape[0], x.shape[dim]) != expected:
                raise self.plan.refuse(
                    f"attention over (batch, tokens) {(x.shape[0], x.shape[dim])} where {expected} were expected"
                )
        if forward.scope.mask is not None and kwargs.get("mask") is not None:
            kwargs["mask"] = forward.scope.mask(forward.scope_module, kwargs["mask"], layout.total)
        if forward.key_mask is not None and kwargs.get("mask") is None:
            kwargs["mask"] = forward.key_mask
        tag = Tag(forward.scope_path, "kv" if call == 0 else f"kv{call + 1}", self._slots)
        return self.attention(func, q, k, v, layout=layout, tag=tag, **kwargs)
