"""Finds patches that need all conditions of a model call on one worker, which rules out cfg_degree."""

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
    """Why patches keep the conditions of a call from going to different workers; empty if they do not."""
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
    """Yields all patches that are called inside the model."""
    for patches in options.get("patches", {}).values():
        yield from (patch[1] if isinstance(patch, tuple) else patch for patch in patches)
    for blocks in options.get("patches_replace", {}).values():
        yield from blocks.values()


def _share_state(inside: Iterable[Callable], around: Iterable[Callable]) -> bool:
    """Whether a function of `inside` may write to an object or variable that a function of `around` can read."""
    around = list(around)
    read = {id(cell) for function in around for cell in _cells(function).values()}
    read |= {id(state) for function in around for state in _state(function)}
    written = (shared for function in inside for shared in (*_written(function), *_state(function)))
    return any(id(shared) in read for shared in written)


def _state(function: Callable) -> list[Any]:
    """The objects a function can change: the owner of a method, or the callable object, and what it closes over."""
    seen = [content for cell in _cells(function).values() for content in _content(cell)]
    owner = getattr(function, "__self__", None)
    owners = [owner] if owner is not None else [] if hasattr(function, "__code__") else [function]
    return owners + [thing for thing in seen if isinstance(thing, list | dict | set) or _remembers(thing)]


def _content(cell: CellType) -> list[Any]:
    """The content of a cell as a list; empty if it is not assigned yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _remembers(thing: Any) -> bool:
    """Whether this is an object with attributes of its own, apart from kinds that almost any function refers to."""
    common = (type, ModuleType, FunctionType, torch.nn.Module, torch.Tensor, ModelPatcher)
    return not isinstance(thing, common) and bool(getattr(thing, "__dict__", None))


def _cells(function: Callable) -> dict[str, CellType]:
    """{name: cell} of the variables that a function closes over."""
    code = getattr(function, "__code__", None)
    return dict(zip(code.co_freevars, function.__closure__ or ())) if code is not None else {}


def _written(function: Callable) -> list[CellType]:
    """The closed-over cells that a function assigns to."""
    cells = _cells(function)
    stored = {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_DEREF"} if cells else ()
    return [cell for name, cell in cells.items() if name in stored]


def _may_name(function: Callable, word: str) -> bool:
    """Whether the code of `function` contains this string constant; True if it has no code to look at."""
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code is None or _names(code, word)


def _names(code: CodeType, word: str) -> bool:
    return any(
        constant == word or (isinstance(constant, CodeType) and _names(constant, word)) for constant in code.co_consts
    )
