"""Guards that several model families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..patches import OUTSIDE_THE_BLOCKS, between_blocks, patch_names
from ..plan import Guard


def _inside(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch inside a block would see the tokens of one rank as if they were all."""
    return bool(patch_names(arguments) - OUTSIDE_THE_BLOCKS - {"double_block"})


def _any(arguments: Mapping[str, Any]) -> bool:
    return _inside(arguments) or between_blocks(arguments)


PATCHES = Guard("", _any, "a patch of its blocks or attention (such as skip layer guidance or PAG)")
INSIDE = Guard("", _inside, "a patch inside its blocks or attention")
CONTROL = Guard("", lambda arguments: arguments.get("control") is not None, "a ControlNet")
