"""Divides work over the ranks where every rank has all tokens: attention by heads or by sequences, modules by tokens.

Also the base of `TokenSharding`, with the hooks and the gathering that both need. B batch, N tokens, H heads,
D head dim.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..attention.layout import TokenLayout
from ..attention.sequence import SequenceAttention
from ..compression.wire import Tag
from .forward import Forward
from .heads import share_heads
from .hooks import Hooked
from .module_arguments import argument, replaced
from .padded_layout import PaddedLayout
from .plan import DivideHeads, DivideSequences, DivideTokens, Plan
from .varlen_attention import share_sequences


class Sharing(Hooked):
    """The base of a sharding that gives each rank its share of the work on tokens all ranks have; see `Hooked`."""

    def __init__(self, module: nn.Module, plan: Plan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        self._forward = Forward()
        self._callers: dict[tuple[str, str], Callable[..., Tensor]] = {}

    def detach(self) -> None:
        """Removes the hooks and restores the patched functions of Python modules."""
        super().detach()
        for (module, name), function in self._callers.items():
            setattr(sys.modules[module], name, function)
        self._callers.clear()

    def _replace(self, module: str, name: str, by: Callable[..., Tensor]) -> None:
        """Patches a function of a Python module until `detach`; `by` gets the original in front of its arguments."""
        self._callers[module, name] = function = getattr(sys.modules[module], name)
        setattr(sys.modules[module], name, partial(by, function))

    def _attach_shared(
        self, action: DivideSequences | DivideHeads | DivideTokens, path: str, module: nn.Module
    ) -> None:
        match action:
            case DivideSequences():
                self._replace(action.module, action.function, self._share_sequences)
            case DivideHeads():
                self._replace(action.module, action.function, self._share_heads)
            case DivideTokens():
                places = self._places(path, module)
                self._before(module, partial(self._change_argument, action.arg, self._share, places))
                self._behind(module, partial(self._gather_shared, path))

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

    def _share_sequences(self, function: Callable[..., Tensor], **kwargs: Any) -> Tensor:
        if self._forward.unsplit:
            return function(**kwargs)
        tag = Tag(self._named("sequences"), "all tokens", self._slots, sensitive=True)
        parts, part = self.attention.parts, self.attention.part
        return share_sequences(function, parts, part, lambda x, layout: self._all_tokens(x, layout, 0, tag), **kwargs)

    def _share_heads(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self._forward.unsplit or self._forward.shared is not None:
            return function(*args, **kwargs)
        tag = Tag(self._named("heads"), "all tokens", self._slots, sensitive=True)
        parts, part = self.attention.parts, self.attention.part
        return share_heads(
            function, parts, part, lambda x, layout: self._all_tokens(x, layout, 2, tag), *args, **kwargs
        )

    def _share(self, x: Tensor, given: Callable[[str], Any]) -> Tensor:
        self._forward.shared = PaddedLayout((x.shape[1],), self.attention.parts)
        return self._forward.shared.split(x, 0, 1, self.attention.part)

    def _gather_shared(self, path: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        tag = Tag(self._named(path), "all tokens", self._slots, sensitive=True)
        layout, self._forward.shared = self._forward.shared, None
        return self._all_tokens(output, layout, 1, tag)

    def _all_tokens(self, x: Tensor, layout: TokenLayout, dim: int, tag: Tag) -> Tensor:
        """Gathers the tokens of all ranks; where they come before the batch, its entries travel as one."""
        if isinstance(layout, PaddedLayout):
            x, layout = layout.without_padding(x, dim, self.attention.part), layout.given
        if dim > 0:
            return self.attention.gather_tokens(x, layout, dim, tag)
        together = (" and ".join(f"{cond}, {sample}" for cond, sample in tag.slots), 0)
        return self.attention.gather_tokens(x[None], layout, 1, replace(tag, slots=(together,)))[0]
