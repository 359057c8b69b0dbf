"""The plans, one small table per model family; `plan_for` finds the one for a model.

Every file of this folder is found: a plan is any value of a module that is a Plan or RowPlan.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from ..family import Family
from ..misfit import expected_of, misfit
from ..plan import Plan, Unsupported
from ..rows.row_plan import RowPlan


def registered(plans: Iterable[Family]) -> tuple[Family, ...]:
    """The plans, each once. Raises ValueError where two of them are for one class of models."""
    by_class: dict[str, Family] = {}
    found: list[Family] = []
    for plan in plans:
        if any(plan is other for other in found):  # a file may import the plan of another
            continue
        found.append(plan)
        for model in plan.models:
            if other := by_class.get(model):
                raise ValueError(
                    f"{model} has two plans, {other.family} and {plan.family}; remove it from one of them."
                )
            by_class[model] = plan
    return tuple(found)


def _found() -> Iterable[Family]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return (value for module in modules for value in vars(module).values() if isinstance(value, Family))


_ALL = registered(_found())
PLANS = tuple(plan for plan in _ALL if isinstance(plan, Plan))
"""The plans that split tokens."""
ROW_PLANS = tuple(plan for plan in _ALL if isinstance(plan, RowPlan))
"""The plans that split the rows of a picture."""
NO_PLAN = "There is no sequence-parallel plan for {}"
DEGREES_WITHOUT_PLAN = (
    "leave ulysses_degree and ring_degree at 1 and use cfg_degree 2 (where CFG is above 1), data_degree (for a batch) "
    'or step_degree, which work with every model, or set on_unsupported of Parallel Model to "run on one device".'
)


def has_plan(module: nn.Module) -> bool:
    """Whether `plan_for` finds a plan for this diffusion module."""
    return not reason_against_plan(module)


def splits_rows(module: nn.Module) -> bool:
    """Whether the plan of this diffusion module splits the rows of a picture, over one mesh axis."""
    return isinstance(_of_class(module), RowPlan)


def plan_for(module: nn.Module) -> Plan | RowPlan:
    """The plan of a diffusion module, by its class.

    Raises Unsupported when there is none, naming the class and the degrees that need no plan, or when the model has
    modules that the plan was not written for.
    """
    plan = _of_class(module)
    if plan is None:
        raise Unsupported(f"{reason_against_plan(module)}: {DEGREES_WITHOUT_PLAN}")
    if what := _misfit(module, plan):
        raise plan.refuse_unfit(what)
    return plan


def reason_against_plan(module: nn.Module) -> str:
    """Why `plan_for` finds no plan, without the way out; empty for a module with a plan."""
    plan = _of_class(module)
    if plan is None:
        return NO_PLAN.format(type(module).__name__)
    what = _misfit(module, plan)
    return plan.not_with(what) if what else ""


def is_unfit(module: nn.Module) -> bool:
    """Whether the class of a module has a plan, but the modules inside are not those the plan was written for."""
    plan = _of_class(module)
    return plan is not None and bool(_misfit(module, plan))


def _misfit(module: nn.Module, plan: Plan | RowPlan) -> str:
    return misfit(module, expected_of(module, plan))


def _of_class(module: nn.Module) -> Plan | RowPlan | None:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return next((plan for plan in (*PLANS, *ROW_PLANS) if kind in plan.models), None)
