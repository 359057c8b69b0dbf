"""Guards that several model families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..plan import Guard

_BEFORE_THE_SPLIT = {"post_input"}


def _patched(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch would see the tokens of one rank as if they were all: it may look at positions or change counts.

    A patch that runs before the tokens are split ("post_input") is harmless, and so are empty tables.
    """
    options = arguments.get("transformer_options") or {}
    patches = {name for name, functions in options.get("patches", {}).items() if functions}
    return bool(patches - _BEFORE_THE_SPLIT) or bool(options.get("patches_replace", {}).get("dit"))


PATCHES = Guard("", _patched, "a patch of its blocks or attention (such as skip layer guidance or PAG)")
CONTROL = Guard("", lambda arguments: arguments.get("control") is not None, "a ControlNet")
