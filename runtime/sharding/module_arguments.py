"""Finds modules by the path patterns of plans, and reads or replaces arguments of their forwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def children(module: nn.Module, part: str) -> list[tuple[str, nn.Module]]:
    """The named children that a component of a path matches: one by its name, or `*` all, `first`, `last`."""
    named = list(module.named_children())
    by_name = [(name, child) for name, child in named if name == part]
    match part:
        case _ if by_name:
            return by_name
        case "*":
            return named
        case "first":
            return named[:1]
        case "last":
            return named[-1:]
        case _:
            return []


def modules_at(module: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The modules that a path pattern matches, each with its own path; none if there is no such module."""
    found = [("", module)]
    for part in path.split(".") if path else ():
        found = [(f"{name}.{key}".lstrip("."), child) for name, m in found for key, child in children(m, part)]
    return found


def argument(name: str | int, positions: Mapping[str, int], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The value of an argument, by name or position; None if it was not given."""
    if name in kwargs:
        return kwargs[name]
    index = positions.get(name, name)
    return args[index] if isinstance(index, int) and index < len(args) else None


def replaced(
    name: str | int, positions: Mapping[str, int], args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with another value for one that was given."""
    if name in kwargs:
        return args, {**kwargs, name: value}
    index = positions.get(name, name)
    return (*args[:index], value, *args[index + 1 :]), kwargs
