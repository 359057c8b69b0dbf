"""The one reader of plans: hooks on an unchanged model, for as long as a job lasts.

B batch, L own tokens, N all tokens, C channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..attention.layout import TokenLayout
from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag
from .plan import Action, AttentionScope, Gather, Plan, Split, SplitJoint, Unsupported

# The names of the positional arguments of ComfyUI's attention functions (comfy/ldm/modules/attention.py).
_ATTENTION_ARGUMENTS = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")

Slots = tuple[tuple[str, int], ...]


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
    gathered: bool = False
    scope: AttentionScope | None = None
    scope_path: str = ""
    scope_calls: int = 0
    copies: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)


class Sharding:
    """A model split by a plan. As a context manager it holds the hooks; nothing of it stays on the model afterwards.

    Before each forward say `begin_forward(slots)`, and give the model's transformer_options the `attention_override`.
    Everything refused raises Unsupported, on all ranks at the same place.
    """

    def __init__(self, module: nn.Module, plan: Plan, attention: SequenceAttention) -> None:
        self.module = module
        self.plan = plan
        self.attention = attention
        self._slots: Slots = ()
        self._forward = _Forward()
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Sharding:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def attach(self) -> None:
        """Puts the hooks on the modules the plan names. Raises Unsupported, and puts none, when the model lacks one."""
        guards = [(guard, module) for guard in self.plan.guards for _, module in self._resolve(guard.path)]
        actions = [(action, *found) for action in self.plan.actions for found in self._resolve(action.path)]
        self._handles.append(self.module.register_forward_pre_hook(self._start))
        self._handles.append(self.module.register_forward_hook(self._end))
        for guard, module in guards:
            hook = partial(self._guard, guard.refuses, guard.reason)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for action, path, module in actions:
            self._attach_action(action, path, module)

    def detach(self) -> None:
        """Takes the hooks off again and forgets the last forward."""
        while self._handles:
            self._handles.pop().remove()
        self._forward = _Forward()

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    def begin_forward(self, slots: Slots) -> None:
        """The next forwards are for these batch entries: (cond, sample index) each, see `batch_slots`."""
        self._slots = slots

    def attention_override(self, previous: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
        """What to put into transformer_options["optimized_attention_override"]; `previous` is what was there."""

        def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            inner = partial(previous, func) if previous is not None else func
            if self._forward.scope is None:
                return inner(*args, **kwargs)
            return self._attend(inner, **dict(zip(_ATTENTION_ARGUMENTS, args)), **kwargs)

        return override

    def _resolve(self, path: str) -> list[tuple[str, nn.Module]]:
        found = [("", self.module)]
        for part in path.split(".") if path else ():
            found = [(f"{name}.{key}".lstrip("."), child) for name, m in found for key, child in _children(m, part)]
        if not found and "*" not in path:
            raise self.plan.refuse(f"no {path} in the model")
        return found

    def _attach_action(self, action: Action, path: str, module: nn.Module) -> None:
        match action:
            case Split():
                hook = partial(self._split, action, _positions(module))
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            case SplitJoint():
                hook = partial(self._split_joint, action, _positions(module))
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            case AttentionScope():
                self._handles.append(module.register_forward_pre_hook(partial(self._enter_scope, action, path)))
                self._handles.append(module.register_forward_hook(self._leave_scope))
            case Gather():
                self._handles.append(module.register_forward_hook(partial(self._gather, action, path)))

    def _start(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._forward = _Forward()

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = bool(self._forward.lengths) and not self._forward.gathered
        self._forward = _Forward()
        if unfinished:
            raise self.plan.refuse("a patch that keeps its last layer from running")

    def _guard(
        self,
        refuses: Callable[[Mapping[str, Any]], bool],
        reason: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if refuses({**dict(zip(_positions(module), args)), **kwargs}):
            raise self.plan.refuse(reason)

    def _split(
        self,
        action: Split,
        positions: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        x = _argument(action.arg, positions, args, kwargs)
        if x is None:
            raise self.plan.refuse(f"no {action.segment} tokens")
        length, parts = x.shape[action.dim], self.attention.parts
        if length < parts:
            raise self.plan.refuse(f"{length} {action.segment} tokens on {parts} ranks")
        self._forward.lengths[action.segment] = length
        layout = TokenLayout((length,), parts)
        return _replaced(action.arg, positions, args, kwargs, layout.split(x, 0, action.dim, self.attention.part))

    def _split_joint(
        self,
        action: SplitJoint,
        positions: Mapping[str, int],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        x = _argument(action.arg, positions, args, kwargs)
        if x is None:
            return None
        layout = self._layout(self.plan.joint)
        if x.shape[action.dim] != layout.total:
            raise self.plan.refuse(f"{action.arg} for {x.shape[action.dim]} of {layout.total} tokens")
        key = (id(x), action.dim)
        if key not in self._forward.copies:
            self._forward.copies[key] = (x, layout.split_joint(x, action.dim, self.attention.part))
        return _replaced(action.arg, positions, args, kwargs, self._forward.copies[key][1])

    def _enter_scope(self, action: AttentionScope, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._forward.scope, self._forward.scope_path, self._forward.scope_calls = action, path, 0

    def _leave_scope(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._forward.scope = None
        if not self._forward.scope_calls:
            raise self.plan.refuse("an attention that does not go through ComfyUI's attention functions")

    def _gather(self, action: Gather, path: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        self._forward.gathered = True
        tag = Tag(path, "tokens", self._slots, sensitive=True)
        return self.attention.gather_tokens(output, self._layout(action.segments), action.dim, tag)

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
        tag = Tag(forward.scope_path, "kv" if call == 0 else f"kv{call + 1}", self._slots)
        return self.attention(func, q, k, v, layout=layout, tag=tag, **kwargs)


def _children(module: nn.Module, part: str) -> list[tuple[str, nn.Module]]:
    children = list(module.named_children())
    match part:
        case "*":
            return children
        case "first":
            return children[:1]
        case "last":
            return children[-1:]
        case _:
            return [(name, child) for name, child in children if name == part]


def _positions(module: nn.Module) -> dict[str, int]:
    """The position of each named argument of a module's forward."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: i for i, p in enumerate(p for p in parameters if p.kind in kinds)}


def _argument(name: str | int, positions: Mapping[str, int], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return kwargs[name] if name in kwargs else args[positions.get(name, name)]


def _replaced(
    name: str | int, positions: Mapping[str, int], args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if name in kwargs:
        return args, {**kwargs, name: value}
    index = positions.get(name, name)
    return (*args[:index], value, *args[index + 1 :]), kwargs


def self_check(sharding: Sharding, slots: Slots, *args: Any, **kwargs: Any) -> float:
    """||sharded - full|| / ||full|| of one evaluation of the model on these inputs, the same on every rank.

    Takes the hooks off for the full one and leaves them as they were. A compressing wire moves on by one call and its
    error is part of the result.
    """
    attached = sharding.attached
    options = kwargs.pop("transformer_options", {})
    sharding.detach()
    full = sharding.module(*args, transformer_options=dict(options), **kwargs)
    override = sharding.attention_override(options.get("optimized_attention_override"))
    sharding.attach()
    try:
        sharding.begin_forward(slots)
        split = sharding.module(
            *args, transformer_options={**options, "optimized_attention_override": override}, **kwargs
        )
    finally:
        if not attached:
            sharding.detach()
    return float((split - full).double().norm() / full.double().norm())
