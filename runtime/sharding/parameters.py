"""The signature of one module's forward, and how it differs from the arguments that a plan uses and knows there.

A plan names the arguments it uses and lists the others it knows. The forward of another ComfyUI version may lack one of
them, or have new ones that may be per token. It would be split wrongly, so it is refused, with the argument's name.
misfit.py applies this to all modules of a model.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule

_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
OPTIONS = "transformer_options"


@dataclass(frozen=True)
class Passed:
    """Arguments of the forward of `path` that the plan leaves alone, because they are right as they are on every rank.

    With those that its actions name they are all that the plan knows there. Any other parameter is refused if it is
    required, or if it is given a value that may be per token. `hands_to`: "module.function", to which a forward that
    takes any arguments passes them on; the parameters of that function count.
    """

    path: str
    names: tuple[str, ...]
    hands_to: str = ""


@dataclass(frozen=True)
class Parameters:
    """The signature of a forward: `places`, each parameter's position if it has one; `named`, each one's default.

    `others`: whether it takes further arguments, by position or name.
    """

    places: Mapping[str, int]
    named: Mapping[str, Any]
    others: bool

    @classmethod
    def of(cls, module: nn.Module, hands_to: str = "") -> Parameters:
        """Those of a module's forward, as callers know it. Raises LookupError where there is no function `hands_to`."""
        found = list(inspect.signature(_function(hands_to) if hands_to else _forward(module)).parameters.values())
        single = [each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        places = {each.name: place for place, each in enumerate(each for each in single if each.kind in _BY_PLACE)}
        return cls(places, {each.name: each.default for each in single}, len(single) < len(found))

    def misfit(self, names: Collection[str], known: Collection[str] | None) -> str:
        """Why a plan that needs `names`, and knows only `known` besides (None: any), does not fit; empty if it does."""
        missing = [] if self.others else [name for name in names if name not in self.named]
        unknown = self.unknown({*names, *known}) if known is not None else []
        if missing:
            instead = f" (but {', '.join(unknown)})" if unknown else ""
            return f"has no {', '.join(missing)}{instead}"
        needed = [name for name in unknown if self.named[name] is inspect.Parameter.empty]
        return f"needs {', '.join(needed)}, of which the plan knows nothing" if needed else ""

    def unknown(self, known: Collection[str]) -> list[str]:
        """The parameters besides those known and the transformer_options."""
        return [name for name in self.named if name not in known and name != OPTIONS]

    def strangers(
        self, known: Collection[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """Yields the arguments of a call that are neither known nor at their default; "*" is one without a name."""
        names = (*self.places, *["*"] * (len(args) - len(self.places)))
        for name, value in (*zip(names, args), *kwargs.items()):
            if name not in known and name != OPTIONS and not _is(value, self.named.get(name)):
                yield name, value


def positions(module: nn.Module, hands_to: str = "") -> Mapping[str, int]:
    """The position of each named argument of a module's forward."""
    return Parameters.of(module, hands_to).places


def may_be_of_tokens(value: Any, batch: int, counts: Collection[int]) -> bool:
    """Whether a value may be per token, frame, row or position, in which case it would have to be cut.

    It is not if it is a float, a string or a function, or one tensor (B|1, ..1.., C) for all tokens of a batch entry.
    `batch` is B, `counts` the numbers of tokens there are.
    """
    if isinstance(value, Tensor):
        for_all = value.shape[0] in (1, batch) and all(size == 1 for size in value.shape[1:-1]) if value.ndim else True
        return not for_all or (value.ndim > 1 and value.shape[-1] in counts)
    if isinstance(value, Mapping):
        return any(may_be_of_tokens(each, batch, counts) for each in value.values())
    if isinstance(value, list | tuple):
        return any(may_be_of_tokens(each, batch, counts) for each in value)
    return isinstance(value, int) and not isinstance(value, bool)


def _forward(module: nn.Module) -> Callable[..., Any]:
    own = "forward" in vars(module) and not isinstance(module, OptimizedModule)
    return partial(type(module).forward, module) if own else module.forward  # callers use the class's signature


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    function = getattr(sys.modules.get(module), attribute, None)
    if function is None:
        raise LookupError(f"there is no {name}")
    return function


def _is(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, int) and isinstance(default, int) and value == default)
