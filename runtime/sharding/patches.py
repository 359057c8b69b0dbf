"""Where the patches of a workflow look at a model's tokens.

Patches at the input and in refiners run where no tokens are split. Those between the blocks may look at all positions;
so may those inside a block, where only the own tokens are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OUTSIDE_THE_BLOCKS = frozenset({"post_input", "noise_refiner"})


def patch_names(arguments: Mapping[str, Any]) -> set[str]:
    """The kinds of patches in the arguments of a model, empty lists left out."""
    options = arguments.get("transformer_options") or {}
    return {name for name, functions in options.get("patches", {}).items() if functions}


def between_blocks(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch sees the tokens between two blocks, or stands in for a block."""
    options = arguments.get("transformer_options") or {}
    return "double_block" in patch_names(arguments) or bool(options.get("patches_replace", {}).get("dit"))
