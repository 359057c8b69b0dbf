"""All exchanges, by name. Every module of this folder that has an EXCHANGE is picked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...config import ConfigError
from .exchange import Attention, Exchange

if TYPE_CHECKING:
    from ...config import StrategyConfig


def registered(exchanges: Iterable[type[Exchange]]) -> Mapping[str, type[Exchange]]:
    """The exchanges by name, in the node's order. Raises ValueError for a name that is taken."""
    by_name: dict[str, type[Exchange]] = {}
    for exchange in sorted(exchanges, key=lambda exchange: (exchange.place, exchange.name)):
        if other := by_name.get(exchange.name):
            raise ValueError(
                f"Exchange {exchange.name!r} of {_file(exchange)} has the name of that of {_file(other)}; give one of "
                "them another name."
            )
        by_name[exchange.name] = exchange
    return MappingProxyType(by_name)


def _file(exchange: type[Exchange]) -> str:
    return f"{exchange.__module__.rpartition('.')[2]}.py"


def _found() -> list[type[Exchange]]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return [module.EXCHANGE for module in modules if hasattr(module, "EXCHANGE")]


BY_NAME = registered(_found())
OFFERED = tuple(BY_NAME)
"""Names of the exchanges, as the node offers them."""


def require_known(strategy: StrategyConfig) -> None:
    """Raises ConfigError unless there is the exchange that `strategy` names."""
    if strategy.ring_exchange not in BY_NAME:
        raise ConfigError(f"ring_exchange is {strategy.ring_exchange!r}; choose one of {', '.join(OFFERED)}.")


__all__ = ["BY_NAME", "OFFERED", "Attention", "Exchange", "registered", "require_known"]
