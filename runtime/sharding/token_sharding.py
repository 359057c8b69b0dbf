"""Token sharding: applies a plan to an unchanged model, by hooks that stay for as long as a job lasts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..attention.sequence_attention import SequenceAttention
from .actions import HANDLERS, ActionHandler, Blocks, ControlResiduals, FunctionHandler, ModifiedBlockHandler, Unsplit
from .block_patches import with_all_tokens
from .handler import HookSite
from .hooks import Hooked, Slots
from .modified_modules import holds
from .module_arguments import replaced
from .parameters import OPTIONS, positions
from .patches import between_blocks, may_add_keys, may_restore_tokens
from .plan import Plan
from .token_call import TokenCall
from .token_context import TokenContext
from .token_view import TokenView

RUNS_WHOLE = (
    "A workflow has put code of its own into {}: every worker runs {} of the {} blocks of the model on all tokens. "
    "Step Reuse, and cfg_degree where CFG is above 1, lose nothing by it."
)


class TokenSharding(Hooked):
    """A model whose tokens are split over the ranks as its plan says; see `Hooked`."""

    plan: Plan

    def __init__(self, module: nn.Module, plan: Plan, attention: SequenceAttention) -> None:
        super().__init__(module, plan, attention)
        self._context = TokenContext(plan, attention)
        self._functions: dict[tuple[str, str], Callable[..., Tensor]] = {}

    def _attach(self) -> None:
        """Puts the handlers on the model, in the order in which they work on a call."""
        actions = (*self.plan.blocks, *self.plan.all_actions)
        sites = [(action, *found) for action in actions for found in self._resolve(action.path)]
        if self._changed and not self.plan.blocks:
            where = self._changed[0] or type(self.module).__name__
            raise self.plan.refuse(f"code of the workflow's own in place of the model's ({where})")
        self._check_parameters()
        self._context.plan, self._context.attention = self.plan, self.attention

        handlers = [HANDLERS[type(action)](action, self._site(*found), self._context) for action, *found in sites]
        unsplit = [handler for handler in handlers if isinstance(handler.action, Unsplit)]
        unsplit += self._modified_blocks([site for site in sites if isinstance(site[0], Blocks)])
        self._first_of_all(self.module)
        self._post_hook(self.module, self._end)
        self._attach_preferences()
        for handler in unsplit:
            self._pre_hook(handler.site.module, handler.pre_hook)
        for handler in handlers:
            if isinstance(handler, FunctionHandler):
                self._patch(handler.action.module, handler.action.function, handler.call)
            elif handler not in unsplit:
                self._attach_handler(handler)
        for handler in reversed(unsplit):  # also where the others sleep
            self._handles.append(handler.site.module.register_forward_hook(handler.post_hook))
        for name in {getattr(action, "caller", None) for action in actions} - {None}:
            self._patch(name, "optimized_attention", self._override)

    def _modified_blocks(self, sites: list[tuple[Blocks, str, nn.Module]]) -> list[ActionHandler]:
        """The handlers of the blocks that hold code of the workflow's own, or lie inside a module that does."""
        modified = [
            ModifiedBlockHandler(blocks, self._site(path, module), self._context)
            for blocks, path, module in sites
            if any(changed and (holds(path, changed) or holds(changed, path)) for changed in self._changed)
        ]
        if modified:
            self.attention.ledger.warn(RUNS_WHOLE.format(self._changed[0], len(modified), len(sites)))
        return modified

    def _site(self, path: str, module: nn.Module) -> HookSite:
        return HookSite(path, module, self._places(path, module))

    def _patch(self, module: str, name: str, by: Callable[..., Tensor]) -> None:
        """Patches a function of a Python module until `detach`; `by` gets the original in front of its arguments."""
        self._functions[module, name] = function = getattr(sys.modules[module], name)
        setattr(sys.modules[module], name, partial(by, function))

    def detach(self) -> None:
        """Removes the hooks, restores the patched functions of Python modules and forgets the last call."""
        super().detach()
        for (module, name), function in self._functions.items():
            setattr(sys.modules[module], name, function)
        self._functions.clear()
        self._context.call = TokenCall()

    @property
    def cuts_control(self) -> bool:
        """See `Hooked.cuts_control`."""
        return any(isinstance(action, ControlResiduals) for action in self.plan.actions)

    @property
    def _asleep(self) -> bool:
        return self._context.call.unsplit or self._context.call.module_unsplit

    def _counts(self) -> frozenset[int]:
        return self._context.call.counts

    def _start(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        places = positions(module)
        given = {**dict(zip(places, args)), **kwargs}
        self._context.call = call = TokenCall(given, self._entries(given))
        if self._runs_whole(self._refused(given | {"self": module})):
            call.unsplit = True
            return None
        counted = any(given.get(name) is not None for name in self.plan.whole_with)
        call.holds_all = bool(self.plan.blocks) and (bool(self._changed) or counted or between_blocks(given))
        options = given.get(OPTIONS)
        if not options:
            return None
        call.view = TokenView(self._context, adds_keys=may_add_keys(given), restores=may_restore_tokens(given))
        changed = with_all_tokens(options, call.view, self.plan.refuse)
        return replaced(OPTIONS, places, args, kwargs, changed)

    def _entries(self, given: Mapping[str, Any]) -> Slots:
        """The names of the entries of the batch inside the model."""
        if self.plan.sequences is None:
            return self._slots
        sequences = range(self.plan.sequences(given))
        return tuple((f"{cond}, sequence {each}", sample) for cond, sample in self._slots for each in sequences)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        unfinished = bool(self._context.call.segments) and not self._context.call.gathered
        self._context.call = TokenCall()
        if unfinished:
            raise self.plan.refuse_unrun("last layer")

    def _splits_attention(self) -> bool:
        return self._context.call.scope is not None

    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        return self._context.call.scope.attend(func, q=q, k=k, v=v, **kwargs)
