"""Guards that several model families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..patches import between_blocks, may_add_keys, unknown
from ..plan import Guard


def _unknown(arguments: Mapping[str, Any]) -> str:
    kind = unknown(arguments)
    return f"a patch of the kind {kind}" if kind else ""


def _between(arguments: Mapping[str, Any]) -> bool | str:
    return _unknown(arguments) or between_blocks(arguments)


PATCHES = Guard(_between, "a patch between its blocks (such as skip layer guidance)")
INSIDE = Guard(_unknown)
IN_FRONT_OF_ATTENTION = Guard(may_add_keys, "a patch in front of its attention (attn1_patch)")
CONTROL = Guard(lambda arguments: arguments.get("control") is not None, "a ControlNet")
