"""Attention over split tokens: the local queries attend to the keys of all ranks.

B batch, L local tokens, H heads, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..handler import HookSite
from ..module_arguments import argument
from ..padded_layout import attend_without_padding
from ..parameters import OPTIONS, positions
from ..prefix_attention import attend_with_prefix
from ..token_context import TokenContext
from .action import Action, ActionHandler, handles


@dataclass(frozen=True)
class AttentionScope(Action):
    """Attention called inside `path` is over split tokens: the first call over the segments calls[0], and so on.

    `calls`: empty for a single call over the plan's joint sequence.
    `caller`: the model calls ComfyUI's attention without transformer_options, so optimized_attention is patched in this
    Python module, which imports it.
    `mask`: replaces a mask that the module makes for its local tokens with mask(module, its mask, number of all
    tokens), the mask of the whole sequence.
    `prefix`: there may be more keys than queries; the first ones belong to a prefix that every rank has. Calls that see
    no other keys run unchanged and are not counted.
    `last_first`: the module joins the last segment (the image) in front of the others, and uses no mask.
    `skipped_with`: where this transformer option is set, the module works on each token alone and does not attend.
    """

    calls: tuple[tuple[str, ...], ...] = ()
    caller: str | None = None
    mask: Callable[[Any, Tensor, int], Tensor] | None = None
    prefix: bool = False
    last_first: bool = False
    skipped_with: str = ""

    def skips(self, options: Mapping[str, Any] | None) -> bool:
        """Whether the module does not attend with these transformer_options."""
        return bool(self.skipped_with and options and options.get(self.skipped_with))


@handles(AttentionScope)
class AttentionScopeHandler(ActionHandler):
    """Takes the attention calls of one module, in their order."""

    action: AttentionScope

    def __init__(self, action: AttentionScope, site: HookSite, context: TokenContext) -> None:
        super().__init__(action, site, context)
        self._calls = action.calls or (context.plan.joint,)
        self._place_of_options = positions(site.module)
        self._name = ""
        self._attended = 0
        self._skipped = False

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments that the next attention call, or the last one, is over."""
        return self._calls[min(self._attended, len(self._calls) - 1)]

    def pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """See `ModuleHandler.pre_hook`."""
        self._name, self._attended = self.context.call.names.unique(self.site.path), 0
        self._skipped = self.action.skips(argument(OPTIONS, self._place_of_options, args, kwargs))
        self.context.call.scope = self

    def post_hook(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """See `ModuleHandler.post_hook`. Raises Unsupported where the module did not attend."""
        self.context.call.scope = None
        if not self._attended and not self._skipped:
            raise self.context.plan.refuse_unseen_attention()

    def attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attention called inside the module; the arguments are those of ComfyUI's attention functions.

        Raises Unsupported for a call, or a number of tokens, that the plan does not expect.
        """
        context, call, nth = self.context, self.context.call, self._attended
        dim = 2 if kwargs.get("skip_reshape") else 1
        if self.action.prefix and k.shape[dim] <= self._prefix_tokens():
            return func(q, k, v, **kwargs)
        self._attended += 1
        if nth == len(self._calls):
            raise context.plan.refuse(f"more than {nth} attention calls in {self._name}")
        layout = context.layout(self._calls[nth])
        prefix = k.shape[dim] - q.shape[dim] if self.action.prefix else 0
        sees_all = call.view is not None and call.view.attends_to_all
        if not sees_all:
            expected = (len(call.slots), layout.chunk(context.shard_index))
            self._check(dim, expected, q, k.narrow(dim, prefix, k.shape[dim] - prefix))
        if self.action.mask is not None and kwargs.get("mask") is not None:
            kwargs["mask"] = self.action.mask(self.site.module, kwargs["mask"], layout.total)
        if call.key_mask is not None and kwargs.get("mask") is None:
            joint = call.key_mask.joint
            kwargs["mask"] = joint if joint.dtype == torch.bool else joint.to(q.dtype)
        if sees_all:
            return call.view.attend(func, q, k, v, **kwargs)
        tag = context.tag(self._name, "kv" if nth == 0 else f"kv{nth + 1}", sensitive=False)
        attend = partial(attend_with_prefix, context.attention) if prefix else context.attention
        shard = context.shard_index
        others = sum(layout.local(shard)[:-1]) if self.action.last_first else 0
        if others and kwargs.get("mask") is not None:
            raise context.plan.refuse("an attention mask")
        if others:
            q, k, v = (x.roll(others, dim) for x in (q, k, v))
        out = attend_without_padding(attend, func, q, k, v, layout=layout, shard=shard, tag=tag, **kwargs)
        return out.roll(-others, 2 if kwargs.get("skip_output_reshape") else 1) if others else out

    def _prefix_tokens(self) -> int:
        segment = self.context.call.segments.get(self._calls[0][0])
        return segment.prefix if segment else 0

    def _check(self, dim: int, expected: tuple[int, int], *tensors: Tensor) -> None:
        for x in tensors:
            found = (x.shape[0], x.shape[dim])
            if found != expected:
                raise self.context.plan.refuse(f"attention over (batch, tokens) {found} where {expected} were expected")
