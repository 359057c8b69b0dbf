"""What keeps the conditions of a model call together, so that they cannot go to different workers."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

# Functions that see the predictions of all conditions.
AROUND_CFG = (
    "sampler_calc_cond_batch_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_cfg_function",
)
OUTPUT_PATCHES = ("attn1_output_patch", "attn2_output_patch")


def reason_against_cfg(model_options: dict) -> str:
    """Why the conditions of a call cannot go to different workers; empty when they can."""
    options = model_options.get("transformer_options", {})
    for kind in OUTPUT_PATCHES:
        if any(_may_name(patch, "cond_or_uncond") for patch in options.get("patches", {}).get(kind, ())):
            return (
                f"A patch on the output of attention ({kind}), such as NAG, puts the conditions of a call together, "
                "which cfg_degree takes apart; set cfg_degree to 1."
            )
    around = [function for kind in AROUND_CFG for function in _as_list(model_options.get(kind))]
    if _share_state(_inside(options), around):
        return (
            "A patch remembers what it sees inside of the model for a function that acts after CFG, as Self-Attention "
            "Guidance does, and with cfg_degree each worker sees one condition only; set cfg_degree to 1."
        )
    return ""


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] if value is not None else []


def _inside(options: dict) -> Iterator[Callable]:
    """All patches that are called within the model."""
    for patches in options.get("patches", {}).values():
        yield from (patch[1] if isinstance(patch, tuple) else patch for patch in patches)
    for blocks in options.get("patches_replace", {}).values():
        yield from blocks.values()


def _share_state(inside: Iterable[Callable], around: Iterable[Callable]) -> bool:
    """Whether something that a function of `inside` writes is there for one of `around` to read."""
    around = list(around)
    read = {id(cell) for function in around for cell in _cells(function).values()}
    read |= {id(state) for function in around for state in _state(function)}
    written = (shared for function in inside for shared in (*_written(function), *_state(function)))
    return any(id(shared) in read for shared in written)


def _state(function: Callable) -> list[Any]:
    """The objects it can change: that whose method, or which itself, is called, and what its variables hold."""
    seen = [content for cell in _cells(function).values() for content in _content(cell)]
    owner = getattr(function, "__self__", None)
    owners = [owner] if owner is not None else [] if hasattr(function, "__code__") else [function]
    return owners + [thing for thing in seen if isinstance(thing, list | dict | set) or _remembers(thing)]


def _content(cell: CellType) -> list[Any]:
    """What the variable holds; nothing where it is not assigned yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _remembers(thing: Any) -> bool:
    """Whether this is an object with attributes of its own, not one of the kinds that everything refers to."""
    common = (type, ModuleType, FunctionType, torch.nn.Module, torch.Tensor, ModelPatcher)
    return not isinstance(thing, common) and bool(getattr(thing, "__dict__", None))


def _cells(function: Callable) -> dict[str, CellType]:
    """The variables of the surrounding function that it can see."""
    code = getattr(function, "__code__", None)
    return dict(zip(code.co_freevars, function.__closure__ or ())) if code is not None else {}


def _written(function: Callable) -> list[CellType]:
    """Those of `_cells` that it assigns to."""
    cells = _cells(function)
    stored = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"} if cells else ()
    return [cell for name, cell in cells.items() if name in stored]


def _may_name(function: Callable, word: str) -> bool:
    """Whether the code of `function` has this string in it; True where there is no code to look at."""
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is None or _names(code, word)


def _names(code: CodeType, word: str) -> bool:
    return any(
        constant == word or (isinstance(constant, CodeType) and _names(constant, word)) for constant in code.co_consts
    )
