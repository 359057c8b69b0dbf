"""Failures of this pack's own code inside a model, which become refusals: something there is not as that code has it.

Another ComfyUI may lack an attribute that a hook reads, or call it otherwise. What fails in the code of the model, or
of another pack, that a hook calls is no such failure and stays the error it is.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType, FunctionType

from torch import nn

from ..attention.errors import OTHER_DEGREES, MetAlone, Unsupported
from ..comfy.version import installed
from .origin import home_of, is_comfyui_s, namesake

log = logging.getLogger(__name__)

KINDS = (AttributeError, TypeError, KeyError, IndexError, ValueError)
_PACKAGE = f"{__name__.partition('.runtime.')[0]}.runtime."
_HOOKS = ("sharding.", "attention.", "parallel.")
_OF_THE_SPLIT = ("sharding.", "attention.", "parallel.sequence", "parallel.controls")
_OF_A_DEGREE = {"parallel.cfg": "cfg_degree", "parallel.data": "data_degree", "parallel.step.": "step_degree"}
_LIBRARIES = frozenset({"torch", "einops", *sys.stdlib_module_names})
_CALL = nn.Module._call_impl.__code__
_NOT_TAKEN = re.compile(r"(\S+)\(\) (?:got|missing|takes) ")


@contextmanager
def refusing_own_failures(kind: type[Unsupported] = MetAlone) -> Iterator[None]:
    """What fails in this pack's own code in the block becomes a refusal of this `kind`; the log has the traceback."""
    try:
        yield
    except KINDS as error:
        home = _own_home(error)
        if not home or type(error).__module__.startswith(_PACKAGE):  # a sentence of our own
            raise
        what = str(error).partition("\n")[0]
        sentence = (
            f"Parallel Model's own code failed {_place(error)} with {installed()} ({type(error).__name__}: {what}); "
            f"{_way_out(home)}"
        )
        log.exception("%s", sentence)
        raise kind(sentence) from error


def _own_home(error: Exception) -> str:
    """The module of this pack, within its runtime, whose code failed; empty where that was other code.

    The innermost frame decides, but for those of libraries, which fail at what they are given, and for functions that
    only hand a call on. So does an object of ours that is not what the code that has it takes it for. A function of a
    workflow that takes other arguments than ComfyUI gives is at fault itself, although it is called from here.
    """
    lacking = type(getattr(error, "obj", None)).__module__
    if _is_hook(lacking):
        return lacking.removeprefix(_PACKAGE)
    for frame in reversed(_frames(error)):
        home = namesake(frame.f_globals)
        name = home.__name__ if home is not None else ""
        if name.partition(".")[0] in _LIBRARIES or frame.f_code.co_name == "__torch_function__":
            continue
        return name.removeprefix(_PACKAGE) if _is_hook(name) and not _does_not_take(error, frame) else ""
    return ""


def _does_not_take(error: Exception, frame: FrameType) -> bool:
    """Whether a function of a workflow does not take what the frame gives it, in which it has no frame of its own."""
    told = _NOT_TAKEN.match(str(error)) if isinstance(error, TypeError) else None
    if told is None:
        return False
    held = [each for each in frame.f_locals.values() if isinstance(each, tuple) or hasattr(each, "__dict__")]
    held += [part for each in held for part in (each if isinstance(each, tuple) else vars(each).values())]
    called = filter(None, map(_code_of, held))
    return any(each.__qualname__ == told[1] and not _is_known(each) for each in called)


def _code_of(called: object) -> FunctionType | None:
    """The function that runs when this is called."""
    while isinstance(called, partial):
        called = called.func
    found = (called, getattr(called, "__func__", None), vars(type(called)).get("__call__"))
    return next((each for each in found if isinstance(each, FunctionType)), None)


def _is_known(function: FunctionType) -> bool:
    home = home_of(function)
    return is_comfyui_s(function) or (home is not None and home.__name__.startswith(_PACKAGE))


def _is_hook(name: str) -> bool:
    return name.startswith(tuple(_PACKAGE + part for part in _HOOKS))


def _frames(error: Exception) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _place(error: Exception) -> str:
    """Where in the model that was: the innermost module that ran, by its path in the outermost."""
    running = [frame.f_locals["self"] for frame in _frames(error) if frame.f_code is _CALL]
    if not running:
        return "outside of the model's modules"
    model = type(running[0]).__name__
    path = next((path for path, module in running[0].named_modules() if module is running[-1]), "")
    return f"at {path} ({type(running[-1]).__name__}) of {model}" if path else f"in {model}"


def _way_out(home: str) -> str:
    if home.startswith(_OF_THE_SPLIT):
        return OTHER_DEGREES
    degree = next((name for part, name in _OF_A_DEGREE.items() if home.startswith(part)), "")
    instead = f"set {degree} to 1, or " if degree else ""
    return f'{instead}set on_unsupported of Parallel Model to "run on one device".'
