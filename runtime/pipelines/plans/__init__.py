"""The plans of diffusers' transformers, one small table per model family; `plan_for` finds the one for a model.

Every file of this folder is found: a plan is any value of a module that is a Plan. diffusers is not imported: a plan
names classes, modules and arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from ...sharding.family import Family
from ...sharding.plan import Plan
from ...sharding.plans import registered


def _found() -> Iterable[Family]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return (value for module in modules for value in vars(module).values() if isinstance(value, Plan))


PLANS: tuple[Plan, ...] = registered(_found())


def plan_for(module: nn.Module) -> Plan | None:
    """The plan of a denoiser, by its class; None if there is none. A subclass has no plan: it may behave differently.

    Whether its modules are those that the plan was written for is found when a sharding attaches itself.
    """
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    return next((plan for plan in PLANS if kind in plan.models), None)
