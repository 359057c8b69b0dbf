"""Token sharding: applies a plan to an unchanged model, by hooks that stay for as long as a job lasts.

B batch, L local tokens, N all tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag
from .block_patches import with_all_tokens
from .forward import Forward
from .halo import with_halo, without_halo
from .local_shard import LocalShard, local_control
from .modified_modules import holds
from .module_arguments import argument, replaced
from .padded_layout import PaddedLayout, attend_without_padding
from .parameters import positions
from .patches import between_blocks
from .plan import (
    Action,
    AttentionScope,
    Blocks,
    ControlResiduals,
    DivideHeads,
    DivideSequences,
    DivideTokens,
    Gather,
    Halo,
    KeyMask,
    LocalArgument,
    Plan,
    Replicate,
    Split,
    SplitJoint,
    Unsplit,
)
from .prefix_attention import attend_with_prefix
from .shares import Sharing
from .token_view import TokenView

RUNS_WHOLE = (
    "A workflow has put code of its own into {}: every worker runs {} of the {} blocks of the model on all tokens. "
    "Step Reuse, and cfg_degree where CFG is above 1, lose nothing by it."
)


class TokenSharding(Sharing):
    """A model whose tokens are split over the ranks as its plan says; see `Hooked`."""

    def __init__(self, module: nn.Module, plan: Plan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        self._view: TokenView | None = None

    def _attach(self) -> None:
        actions = [(action, *found) for action in self.plan.actions for found in self._resolve(action.path)]
        blocks = [(each, *found) for each in self.plan.blocks for found in self._resolve(each.path)]
        if self._changed and not self.plan.blocks:
            raise self.plan.refuse(f"code of the workflow's own in place of the model's ({self._changed[0]})")
        self._check_parameters()
        self._first_of_all(self.module)
        self._behind(self.module, self._end)
        self._attach_preferences()
        as_is = [found for found in actions if isinstance(found[0], Unsplit)]
        for action, path, module in as_is:
            self._before(module, partial(self._enter_as_is, action, self._places(path, module)))
        whole = [found for found in blocks if self._is_changed(found[1])]
        if whole:
            self.attention.ledger.warn(RUNS_WHOLE.format(self._changed[0], len(whole), len(blocks)))
        for each, path, module in whole:
            self._before(module, partial(self._enter_whole, each, self._places(path, module)))
        for each, path, module in blocks:
            for name, segments, _ in each.tokens:
                split = partial(self._change_argument, name, partial(self._split_block, each, segments))
                self._before(module, partial(split, self._places(path, module)))
            self._behind(module, partial(self._gather_block, each, path))
        for action, path, module in actions:
            self._attach_action(action, path, module)
        for _, _, module in whole:
            self._handles.append(module.register_forward_hook(self._leave_whole))
        for _, _, module in as_is:
            self._handles.append(module.register_forward_hook(self._leave_as_is))
        for name in {getattr(action, "caller", None) for action in self.plan.actions} - {None}:
            self._replace(name, "optimized_attention", self._override)

    def detach(self) -> None:
        """Removes the hooks and forgets the last forward."""
        super().detach()
        self._forward = Forward()

    @property
    def cuts_control(self) -> bool:
        """See `Hooked.cuts_control`."""
        return any(isinstance(action, ControlResiduals) for action in self.plan.actions)

    @property
    def _asleep(self) -> bool:
        return self._forward.unsplit or self._forward.whole_block

    def _is_changed(self, path: str) -> bool:
        """Whether the block at `path` holds code of the workflow's own, or lies inside a module that does."""
        return any(changed and (holds(path, changed) or holds(changed, path)) for changed in self._changed)

    def _enter_whole(
        self,
        blocks: Blocks,
        places: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Lets the block run on all tokens, as the model holds them, and records the lengths of its segments."""
        given = partial(argument, positions=places, args=args, kwargs=kwargs)
        front = blocks.front(self._forward.given, given) if blocks.front else 0
        for name, segments, _ in blocks.tokens:
            if given(name) is not None and len(segments) == 1:
                x = self._forward.off_grid(given(name), segments[0], blocks.dim, blocks.grid)
                self._forward.lengths[segments[0]] = x.shape[blocks.dim] - front
        self._forward.whole_block = True

    def _enter_as_is(
        self,
        action: Unsplit,
        places: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._forward.whole_block = action.when(partial(argument, positions=places, args=args, kwargs=kwargs))

    def _leave_as_is(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._forward.whole_block = False

    def _leave_whole(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._forward.whole_block, self._forward.gathered = False, True

    def _splits_attention(self) -> bool:
        return self._forward.scope is not None

    def _counts(self) -> frozenset[int]:
        return self._forward.counts

    def _attach_action(self, action: Action, path: str, module: nn.Module) -> None:
        places = self._places(path, module)
        match action:
            case Split() | SplitJoint() | LocalArgument() | KeyMask() | ControlResiduals():
                change = {
                    Split: self._split,
                    SplitJoint: self._split_joint,
                    LocalArgument: self._localise,
                    KeyMask: self._take_mask,
                    ControlResiduals: self._cut_residuals,
                }[type(action)]
                hook = partial(self._change_argument, action.arg, partial(change, action), places)
                self._before(module, hook)
            case AttentionScope():
                self._before(module, partial(self._enter_scope, action, path))
                self._behind(module, self._leave_scope)
            case DivideSequences() | DivideHeads() | DivideTokens():
                self._attach_shared(action, path, module)
            case Replicate():
                hook = partial(self._change_argument, action.arg, partial(self._whole, action, path), places)
                self._before(module, hook)
                if action.cut:
                    self._behind(module, partial(self._cut, action))
            case Halo():
                change = partial(self._add_neighbours, action, path)
                self._before(module, partial(self._change_argument, action.arg, change, places))
                self._behind(module, partial(self._cut_neighbours, action))
            case Gather():
                self._behind(module, partial(self._gather, action, path))

    def _start(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        places = positions(module)
        given = {**dict(zip(places, args)), **kwargs}
        self._entered.clear()
        if self._runs_whole(self._refused(given | {"self": module})):
            self._forward = Forward(unsplit=True)
            return None
        counted = any(given.get(name) is not None for name in self.plan.whole_with)
        whole_between = bool(self._changed) or counted or between_blocks(given)
        self._forward = Forward(given, whole_between=bool(self.plan.blocks) and whole_between)
        options = given.get("transformer_options")
        if not options:
            return None
        self._view = TokenView(
            self._forward, self.attention, self._slots, self._layout, self._named, self.plan.refuse,
            joint=self.plan.joint, behind=bool(options.get("patches", {}).get("attn1_output_patch")),
        )  # fmt: skip
        self._forward.patched = bool(options.get("patches", {}).get("attn1_patch"))
        changed = with_all_tokens(options, self._view, self.plan.refuse)
        return replaced("transformer_options", places, args, kwargs, changed)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = bool(self._forward.lengths) and not self._forward.gathered
        self._forward = Forward()
        if unfinished:
            raise self.plan.refuse_unrun("last layer")

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
        x = self._forward.off_grid(x, action.segment, action.dim, action.grid)
        front = action.front(self._forward.given, given) if action.front else 0
        return self._own_segment(x, action.segment, action.dim, front)

    def _own_segment(self, x: Tensor, segment: str, dim: int, front: int) -> Tensor:
        length = x.shape[dim] - front
        self._forward.lengths[segment], self._forward.fronts[segment] = length, front
        own = self._layout((segment,)).split(x.narrow(dim, front, length), 0, dim, self.attention.part)
        return torch.cat([x.narrow(dim, 0, front), own], dim) if front else own

    def _split_block(
        self, blocks: Blocks, segments: tuple[str, ...], x: Tensor | None, given: Callable[[str], Any]
    ) -> Tensor | None:
        if not self._forward.whole_between or x is None:
            return x
        if len(segments) == 1:
            front = blocks.front(self._forward.given, given) if blocks.front else 0
            x = self._forward.off_grid(x, segments[0], blocks.dim, blocks.grid)
            return self._own_segment(x, segments[0], blocks.dim, front)
        return self._layout(segments).split_joint(x, blocks.dim, self.attention.part)

    def _gather_block(self, blocks: Blocks, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._forward.whole_between:
            return output
        outputs = list(output) if isinstance(output, tuple) else [output]
        for _, segments, place in blocks.tokens:
            x = outputs[place or 0]
            if x is not None:
                tag = Tag(path, f"tokens {' '.join(segments)}", self._slots, sensitive=True)
                x = self._all_behind(x, segments, 0, blocks.dim, tag)
                outputs[place or 0] = self._forward.on_grid(x, segments[0], blocks.dim)
        self._forward.gathered = True
        return tuple(outputs) if isinstance(output, tuple) else outputs[0]

    def _split_joint(self, action: SplitJoint, x: Tensor | None, given: Callable[[str], Any]) -> Tensor | None:
        if x is None:
            return None
        layout = self._layout(self.plan.joint)
        if x.shape[action.dim] > layout.total and self._forward.patched:  # also has positions of keys that a patch adds
            own = partial(layout.split_joint, x.narrow(action.dim, 0, layout.total), action.dim, self.attention.part)
            return self._once(x, action.dim, own)
        if x.shape[action.dim] != layout.total:
            raise self.plan.refuse(f"{action.arg} for {x.shape[action.dim]} of {layout.total} tokens")
        return self._once(x, action.dim, lambda: layout.split_joint(x, action.dim, self.attention.part))

    def _localise(self, action: LocalArgument, value: Any, given: Callable[[str], Any]) -> Any:
        if value is None or (self._forward.whole_between and action.outside):
            return value
        what = (action.local, action.segments)
        return self._once(value, what, lambda: action.local(value, self._own(action.segments)))

    def _take_mask(self, action: KeyMask, mask: Tensor | None, given: Callable[[str], Any]) -> None:
        if mask is None:
            return
        if action.segment is None:
            self._forward.key_mask = self._forward.taken_mask = mask
            return
        layout, index = self._layout(self.plan.joint), self.plan.joint.index(action.segment)
        before, length = sum(layout.lengths[:index]), layout.lengths[index]
        if mask.shape[-1] != length:
            raise self.plan.refuse(f"{action.arg} for {mask.shape[-1]} of {length} {action.segment} tokens")
        self._forward.taken_mask = mask
        self._forward.key_mask = nn.functional.pad(mask, (before, layout.total - before - length))[:, None]

    def _cut_residuals(
        self, action: ControlResiduals, control: Mapping[str, Any] | None, given: Callable[[str], Any]
    ) -> dict[str, Any] | None:
        if control is None or self._forward.whole_between:
            return control
        return local_control(control, lambda: self._own((action.segment,)), action.dim)

    def _whole(self, action: Replicate, path: str, x: Tensor, given: Callable[[str], Any]) -> Tensor:
        if self._forward.whole_between and action.outside:
            return x
        tag = Tag(self._named(path), "all tokens", self._slots, sensitive=True)
        return self._all_tokens(x, self._layout((action.segment,)), 1, tag)

    def _cut(self, action: Replicate, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._forward.whole_between and action.outside:
            return output
        if action.item is not None:
            own = self._cut(replace(action, item=None), module, args, output[action.item])
            return (*output[: action.item], own, *output[action.item + 1 :])
        return self._own((action.segment,)).tokens(output)

    def _add_neighbours(self, action: Halo, path: str, x: Tensor, given: Callable[[str], Any]) -> Tensor:
        tag = Tag(self._named(path), "neighbours", self._slots, sensitive=True)
        return with_halo(self.attention, x, self._layout((action.segment,)), tag)

    def _cut_neighbours(self, action: Halo, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return without_halo(output, self._layout((action.segment,)), self.attention.part)

    def _own(self, segments: tuple[str, ...]) -> LocalShard:
        return LocalShard(self._layout(segments), self.attention.part, self._forward.whole_between)

    def _once(self, value: Any, what: Any, make: Callable[[], Any]) -> Any:
        """Returns `make()`, cached for this value in this forward. Keeps the value, so that its id stays unique."""
        key = (id(value), what)
        if key not in self._forward.copies:
            self._forward.copies[key] = (value, make())
        return self._forward.copies[key][1]

    def _enter_scope(
        self, action: AttentionScope, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._forward.scope, self._forward.scope_module = action, module
        self._forward.scope_path, self._forward.scope_calls = self._named(path), 0
        self._forward.scope_skipped = action.skips(argument("transformer_options", positions(module), args, kwargs))

    def _leave_scope(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._forward.scope = None
        if not self._forward.scope_calls and not self._forward.scope_skipped:
            raise self.plan.refuse_unseen_attention()

    def _gather(self, action: Gather, path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._forward.whole_between:
            return output
        if action.item is not None:
            x = self._gather(replace(action, item=None), path, module, args, output[action.item])
            return (*output[: action.item], x, *output[action.item + 1 :])
        self._forward.gathered = True
        tag = Tag(path, "tokens", self._slots, sensitive=True)
        kept = sum(self._layout(action.behind).local(self.attention.part)) if action.behind else 0
        x = self._all_behind(output, action.segments, kept, action.dim, tag)
        return self._forward.on_grid(x, action.segments[0], action.dim)

    def _all_behind(self, x: Tensor, segments: tuple[str, ...], kept: int, dim: int, tag: Tag) -> Tensor:
        """Gathers the tokens of the segments; in front of them the prefix and `kept` other tokens stay."""
        kept += self._forward.fronts.get(segments[0], 0)
        own, layout = x.narrow(dim, kept, x.shape[dim] - kept), self._layout(segments)
        if own.shape[dim] != layout.chunk(self.attention.part):
            raise self.plan.refuse("a patch that changes the number of tokens")
        everyones = self._all_tokens(own, layout, dim, tag)
        return torch.cat([x.narrow(dim, 0, kept), everyones], dim) if kept else everyones

    def _layout(self, segments: tuple[str, ...]) -> PaddedLayout:
        lengths = self._forward.lengths
        if any(segment not in lengths for segment in segments):
            raise self.plan.refuse_unrun("first block")
        return PaddedLayout(tuple(lengths[segment] for segment in segments), self.attention.parts)

    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        forward, call = self._forward, self._forward.scope_calls
        dim = 2 if kwargs.get("skip_reshape") else 1
        if forward.scope.front and k.shape[dim] <= forward.fronts.get(forward.scope.calls[0][0], 0):
            return func(q, k, v, **kwargs)
        forward.scope_calls += 1
        if call == len(forward.scope.calls):
            raise self.plan.refuse(f"more than {call} attention calls in {forward.scope_path}")
        layout = self._layout(forward.scope.calls[call])
        expected = (len(self._slots), layout.chunk(self.attention.part))
        front = k.shape[dim] - q.shape[dim] if forward.scope.front else 0
        for x in (q, k.narrow(dim, front, k.shape[dim] - front)) if not forward.all_given else ():
            if (x.shape[0], x.shape[dim]) != expected:
                raise self.plan.refuse(
                    f"attention over (batch, tokens) {(x.shape[0], x.shape[dim])} where {expected} were expected"
                )
        if forward.scope.mask is not None and kwargs.get("mask") is not None:
            kwargs["mask"] = forward.scope.mask(forward.scope_module, kwargs["mask"], layout.total)
        if forward.key_mask is not None and kwargs.get("mask") is None:
            kwargs["mask"] = forward.key_mask.to(q.dtype)
        if forward.all_given:
            return self._view.attend(func, q, k, v, **kwargs)
        tag = Tag(forward.scope_path, "kv" if call == 0 else f"kv{call + 1}", self._slots)
        attend = partial(attend_with_prefix, self.attention) if front else self.attention
        part = self.attention.part
        return attend_without_padding(attend, func, q, k, v, layout=layout, part=part, tag=tag, **kwargs)
