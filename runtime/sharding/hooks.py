"""The base of token sharding and row sharding: hooks on an unchanged model for as long as a job lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..attention.sequence_attention import SequenceAttention
from ..attention.unsupported import Unsupported
from .failures import refusing_own_failures
from .family import Family
from .handler import ModuleHandler
from .misfit import Expected, expected_of, misfit, of_forward
from .modified_modules import holds, modified_modules
from .module_arguments import modules_at
from .overrides import applied
from .parameters import OPTIONS, Parameters, may_be_of_tokens, positions
from .preferred import Preferences, taken

Slots = tuple[tuple[str, int], ...]
"""(cond, sample index) of each batch entry."""

SOME_WHOLE = "{}: every worker ran some calls of the model whole, which saves no time."

# The names of the positional arguments of ComfyUI's attention functions (comfy/ldm/modules/attention.py).
ATTENTION_ARGUMENTS = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")


class Hooked(ABC):
    """A model that is split over ranks by hooks. As a context manager it leaves nothing on the model.

    Call `begin_forward(slots)` before each forward, the first time when the workflow's changes are on the model, and
    put `attention_override` into the model's transformer_options. Every refusal raises Unsupported, on all ranks at the
    same place.
    `replaced`: the paths of modules that a workflow replaces, wholly or in part.
    `asked`: whether the user asked for this split. If not, a forward that a guard refuses runs unsplit on every rank:
    the hooks do nothing in it.
    """

    runs_compiled = True
    """Whether torch.compile can compile the model with its hooks."""
    given: tuple[str, ...] = (OPTIONS,)
    """The arguments with which every caller calls the model."""

    def __init__(self, module: nn.Module, plan: Family, attention: SequenceAttention) -> None:
        self.module = self.called = module
        self.plan = plan
        self.attention = attention
        self.replaced: tuple[str, ...] = ()
        self.asked = True
        self._slots: Slots = ()
        self._changed: tuple[str, ...] = ()
        self._relied_on: dict[str, Expected] = {}
        self._handles: list[RemovableHandle] = []
        self._preferences = Preferences(module)

    def __enter__(self) -> Hooked:
        self.attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def attach(self) -> None:
        """Puts the hooks on the modules that the plan names.

        Raises Unsupported, and leaves none on, when a module is missing or is not one the plan was written for.
        """
        try:
            with refusing_own_failures(Unsupported, self.plan.library):  # every rank has the same model
                self._changed = self._look()
                self._attach()
                self._look_for_strangers()
        except Unsupported:
            self.detach()
            raise

    @abstractmethod
    def _attach(self) -> None:
        """Does the work of `attach`; must call `_check_parameters` before it adds the first hook."""

    def detach(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()

    @property
    def attached(self) -> bool:
        """Whether the hooks are on the model."""
        return bool(self._handles)

    @property
    def changed(self) -> tuple[str, ...]:
        """The paths of the modules that are not as their library's code has them."""
        return self._changed

    def begin_forward(self, slots: Slots) -> None:
        """Sets the batch entries of the next forwards. Attaches the hooks if that is still to be done."""
        self._slots = slots
        if not self.attached:
            self.attach()

    def _look(self) -> tuple[str, ...]:
        """The paths of the modules that differ from their library's code, and of those that a workflow replaces."""
        return tuple(sorted({*self.replaced, *modified_modules(self.module, self.plan.library.packages)}))

    def attention_override(self, previous: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
        """The value for transformer_options["optimized_attention_override"]; `previous` is the one that was there."""

        def override(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            if previous is not None:
                return self._call(applied(previous, func), *args, **kwargs)
            return self._override(func, *args, **kwargs)

        return override

    def _override(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Runs in place of ComfyUI's attention function `func`, or of the one that the checkpoint prefers."""
        try:
            given = kwargs.pop("preferred_attention", None)
            preferred = given.function if given is not None else self._preferences.function()
        except ValueError as error:
            raise self.plan.refuse(str(error)) from error
        return self._call(preferred or func, *map(taken, args), **kwargs)

    def _call(self, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if not self._splits_attention():
            return func(*args, **kwargs)
        return self._attend(func, **dict(zip(ATTENTION_ARGUMENTS, args)), **kwargs)

    def _attach_preferences(self) -> None:
        for module in self._preferences.holders(self.module):
            self._handles.append(module.register_forward_pre_hook(self._preferences.enter))
            self._handles.append(module.register_forward_hook(self._preferences.leave, always_call=True))

    def _check_parameters(self) -> None:
        """Raises Unsupported where a module's parameters are not those that the plan was written for."""
        self._relied_on = expected_of(self.module, self.plan, self.called, self.given)
        what = misfit(self.module, self._relied_on, self._changed, self.plan.library)
        if what:
            raise self.plan.refuse_unfit(what)

    def _look_for_strangers(self) -> None:
        """Hooks the modules that may be given arguments the plan does not know."""
        for path, expected in self._relied_on.items():
            parameters = expected.parameters()
            may_be_given = parameters.others or parameters.unknown(expected.all_known)
            if expected.known is not None and may_be_given and not any(holds(each, path) for each in self._changed):
                hook = partial(self._refuse_strangers, path, parameters, expected.all_known)
                self._pre_hook(expected.module, hook)

    def _refuse_strangers(
        self,
        path: str,
        parameters: Parameters,
        known: frozenset[str],
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        for name, value in parameters.strangers(known, args, kwargs):
            if may_be_of_tokens(value, len(self._slots), self._counts()):
                what = f"is given {name}, of which the plan knows nothing and which may be about single tokens"
                raise self.plan.refuse_unfit(of_forward(path, module, what, self.plan.library))

    def _counts(self) -> frozenset[int]:
        """The numbers of tokens in this forward, as far as they are known."""
        return frozenset()

    @abstractmethod
    def _splits_attention(self) -> bool:
        """Whether an attention call made now is over split tokens."""

    @abstractmethod
    def _attend(self, func: Callable[..., Tensor], *, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Attention over split tokens; the arguments are those of ComfyUI's attention functions."""

    def _resolve(self, path: str) -> list[tuple[str, nn.Module]]:
        found = modules_at(self.module, path)
        if not found and "*" not in path:
            raise self.plan.refuse(f"no {path} in the model")
        return found

    def _places(self, path: str, module: nn.Module) -> Mapping[str, int]:
        """The positions of the arguments of the module at `path`, which the plan names."""
        return positions(module, self._relied_on[path].hands_to)

    def _pre_hook(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        awake = lambda *given: None if self._asleep else hook(*given)  # noqa: E731
        self._handles.append(module.register_forward_pre_hook(awake, with_kwargs=True))

    def _post_hook(self, module: nn.Module, hook: Callable[..., Any], always_call: bool = False) -> None:
        awake = lambda *given: None if self._asleep else hook(*given)  # noqa: E731
        self._handles.append(module.register_forward_hook(awake, always_call=always_call))

    def _attach_handler(self, handler: ModuleHandler) -> None:
        """Registers the hooks that the handler has."""
        if type(handler).pre_hook is not ModuleHandler.pre_hook:
            self._pre_hook(handler.site.module, handler.pre_hook)
        if type(handler).post_hook is not ModuleHandler.post_hook:
            self._post_hook(handler.site.module, handler.post_hook, handler.always)

    def _first_of_all(self, module: nn.Module) -> None:
        """Runs `_start` before each forward of the module; it decides whether the hooks sleep during it."""
        self._handles.append(module.register_forward_pre_hook(self._start, with_kwargs=True))

    @property
    @abstractmethod
    def cuts_control(self) -> bool:
        """Whether the model takes ControlNet outputs, on every rank those of its local tokens or rows."""

    @property
    @abstractmethod
    def _asleep(self) -> bool:
        """Whether the hooks do nothing, because the modules that run now are given all of the picture."""

    @abstractmethod
    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hook that `_first_of_all` registers."""

    def _refused(self, given: Mapping[str, Any]) -> str:
        """Why a guard refuses to split a forward with these arguments, "self" among them; empty if none does."""
        for guard in self.plan.guards:
            refused = guard.refuses(given)
            if refused:
                return refused if isinstance(refused, str) else guard.reason
        return ""

    def _runs_whole(self, refused: str) -> bool:
        """Whether this forward runs unsplit, because it is refused. Raises Unsupported if a split was asked for."""
        if refused and self.asked:
            raise self.plan.refuse(refused)
        if refused:
            self._warn_whole(refused)
        return bool(refused)

    def _warn_whole(self, what: str) -> None:
        self.attention.ledger.warn(SOME_WHOLE.format(self.plan.not_with(what)))
