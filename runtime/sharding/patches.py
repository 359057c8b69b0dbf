"""Sorts a workflow's patches by where they look at a transformer's tokens.

Patches at the input and in refiners run where no tokens are split. Those between the blocks or inside a block may look
at all positions, so both are given all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rows.row_patches import KNOWN, REPLACES

OUTSIDE_THE_BLOCKS = frozenset({"post_input", "noise_refiner"})
BETWEEN_THE_BLOCKS = frozenset({"double_block", "single_block"})
OF_BLOCKS = frozenset({"attn1_patch", "attn1_output_patch", "attn2_patch", "mlp_patch"})
OF_UNETS = KNOWN - OF_BLOCKS
"""Kinds that no transformer of ComfyUI calls: they have no effect there, on one device or on many."""


def patch_names(arguments: Mapping[str, Any]) -> set[str]:
    """The kinds of patches in the arguments of a model, without those whose list is empty."""
    options = arguments.get("transformer_options") or {}
    return {name for name, functions in options.get("patches", {}).items() if functions}


def between_blocks(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch sees the tokens between two blocks, or replaces a block."""
    options = arguments.get("transformer_options") or {}
    return bool(patch_names(arguments) & BETWEEN_THE_BLOCKS or options.get("patches_replace", {}).get("dit"))


def may_add_keys(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch in front of self-attention changes its queries, keys and values, and may add to them."""
    return "attn1_patch" in patch_names(arguments)


def may_restore_tokens(arguments: Mapping[str, Any]) -> bool:
    """Whether a patch after self-attention may restore a token count that one in front of it has changed."""
    return "attn1_output_patch" in patch_names(arguments)


def unknown(arguments: Mapping[str, Any]) -> str:
    """A kind of patch that none of these lists has, which may look at tokens anywhere; empty if there is none."""
    options = arguments.get("transformer_options") or {}
    replaced = {kind for kind, layers in options.get("patches_replace", {}).items() if layers}
    kinds = patch_names(arguments) - OUTSIDE_THE_BLOCKS - BETWEEN_THE_BLOCKS - OF_BLOCKS - OF_UNETS
    return min(kinds | replaced - {"dit", *REPLACES}, default="")
