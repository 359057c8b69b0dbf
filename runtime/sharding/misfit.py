"""Collects the arguments that a plan relies on, module by module, and finds the first module that does not fit.

A module fits if its forward has the parameters its plan was written for; parameters.py compares a single signature.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from .family import Family
from .library import COMFYUI, Library
from .modified_modules import holds, modified_modules
from .module_arguments import modules_at
from .parameters import OPTIONS, Parameters, Passed
from .plan import Plan
from .rows.row_effects import named
from .rows.row_plan import RowPlan

_ONE = re.compile(r"\b(first|last)\b")


@dataclass
class Expected:
    """The arguments a plan relies on in one module: `names`, which it names, and `known`, others it knows (None: any).

    `hands_to`: see `Passed`.
    """

    module: nn.Module
    names: dict[str, None] = field(default_factory=dict)
    known: set[str] | None = None
    hands_to: str = ""

    @property
    def all_known(self) -> frozenset[str]:
        """The arguments that are named or known."""
        return frozenset({*self.names, *(self.known or ())})

    def parameters(self) -> Parameters:
        """The parameters that the module has."""
        return Parameters.of(self.module, self.hands_to)


def expected_of(
    model: nn.Module, plan: Family, called: nn.Module | None = None, given: Collection[str] = (OPTIONS,)
) -> dict[str, Expected]:
    """The arguments that the plan relies on in the modules of a model, by path of the module.

    `called` is the module that is called with the arguments `given`, if that is not the model itself.
    """
    found = {"": Expected(called or model, dict.fromkeys(given))}
    if isinstance(plan, RowPlan):
        passed = {each.path: each for each in plan.passed}
        naming = _names_of_rows(model, plan)
        known = [(path, each, passed[named(each)]) for path, each in model.named_modules() if named(each) in passed]
    else:
        patterns = _names(plan)
        naming = ((*at, names) for path, names in patterns for at in modules_at(model, path))
        known = [(*at, _with_names(each, patterns)) for each in plan.passed for at in modules_at(model, each.path)]
    for path, module, names in naming:
        found.setdefault(path, Expected(module)).names |= dict.fromkeys(names)
    for path, module, passed in known:
        expected = found.setdefault(path, Expected(module))
        expected.known = {*(expected.known or ()), *passed.names}
        expected.hands_to = passed.hands_to or expected.hands_to
    return found


def misfit(
    model: nn.Module,
    relied_on: Mapping[str, Expected],
    changed: Collection[str] | None = None,
    library: Library = COMFYUI,
) -> str:
    """Describes the first module that is not as relied on, and how; empty if all are.

    Modules at the paths `changed` hold a workflow's own code and need not fit; None: they are looked up if needed.
    """
    checked: set[tuple[Any, ...]] = set()
    for path, expected in relied_on.items():
        kind = type(expected.module), tuple(expected.names), expected.all_known, "forward" in vars(expected.module)
        if kind in checked:
            continue
        try:
            what = expected.parameters().misfit([*expected.names], expected.known)
        except LookupError as missing:
            what = f"is not known, as {missing.args[0]}"
        if not what:
            checked.add(kind)
            continue
        changed = tuple(modified_modules(model, library.packages)) if changed is None else changed
        if not any(each == "" or holds(each, path) for each in changed):
            return of_forward(path, expected.module, what, library)
    return ""


def of_forward(path: str, module: nn.Module, what: str, library: Library = COMFYUI) -> str:
    """A phrase for error messages: the class, path and library of a module, "whose forward", and `what`."""
    place = f" ({path})" if path else ""
    return f"the {type(module).__name__}{place} of {library.installed}, whose forward {what}"


def _names(plan: Plan) -> list[tuple[str, list[str]]]:
    """The arguments that a plan names, as (path of the action, names)."""
    naming = [(each.path, [getattr(each, "arg", None), getattr(each, "until", None)]) for each in plan.all_actions]
    naming += [(each.path, [name for name, *_ in each.tokens]) for each in plan.blocks]
    return [(path, [name for name in names if isinstance(name, str)]) for path, names in naming]


def _with_names(passed: Passed, patterns: list[tuple[str, list[str]]]) -> Passed:
    """Adds the arguments that the plan names in only one of the modules, the first or the last."""
    named = (name for path, names in patterns if _ONE.sub("*", path) == passed.path for name in names)
    return replace(passed, names=(*passed.names, *named))


def _names_of_rows(model: nn.Module, plan: RowPlan) -> Iterator[tuple[str, nn.Module, list[str]]]:
    yield "", model, ["x"]
    for path, module in model.named_modules():
        if named(module) in plan.upsamples:
            yield path, module, ["output_shape"]
        if named(module) in plan.transformers:
            yield path, module, [OPTIONS]
            inner = plan.self_attention if not plan.text_in_attention else ()
            for each in inner:
                yield from ((at, attention, ["context"]) for at, attention in modules_at(model, f"{path}.{each}"))
