"""Whose wrappers are around the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OURS = f"{__name__.partition('.runtime.')[0]}.runtime."


def wrapped_by_others(options: Mapping[str, Any], *kinds: str) -> bool:
    """Whether transformer_options hold wrappers of these kinds (WrappersMP) that are not this pack's own."""
    wrappers = options.get("wrappers", {})
    return any(
        not getattr(wrapper, "__module__", "").startswith(_OURS)
        for kind in kinds
        for functions in wrappers.get(kind, {}).values()
        for wrapper in functions
    )
