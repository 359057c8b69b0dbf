"""Tests whether a function or class is this pack's own code or ComfyUI's; all other code counts as foreign."""

from __future__ import annotations

from typing import Any

from ...sharding.origin import homes_of, is_comfyui_s

_OURS = f"{__name__.partition('.runtime.')[0]}.runtime."


def is_of_comfyui(thing: Any) -> bool:
    """Whether a function or class is ComfyUI's, or this pack's."""
    return is_of_this_pack(thing) or is_comfyui_s(thing)


def is_of_this_pack(thing: Any) -> bool:
    """Whether a function, class or object is of this pack's runtime, and so on a worker's model only during a job."""
    return all(home is not None and home.__name__.startswith(_OURS) for home in homes_of(thing))
