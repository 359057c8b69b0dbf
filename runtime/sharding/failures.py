"""Turns failures of this pack's own code inside a model into refusals: the model is not what that code assumes.

Another ComfyUI may lack an attribute that a hook reads, or call it differently. An error in code of the model, or of
another pack, that a hook calls is no such failure and is raised unchanged.
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

from ..attention.unsupported import MetAlone, Unsupported
from .library import COMFYUI, Library
from .origin import home_of, is_comfyui_s, namesake

log = logging.getLogger(__name__)

KINDS = (AttributeError, TypeError, KeyError, IndexError, ValueError)
_PACKAGE = f"{__name__.partition('.runtime.')[0]}.runtime."
_WRAPPERS = "comfy.wrappers."
_DENOISERS = ("pipelines.plans.", "pipelines.denoiser_sharding")
_OF_THE_SPLIT = (
    "sharding.",
    "attention.",
    "parallel.sequence",
    f"{_WRAPPERS}tokens",
    f"{_WRAPPERS}controlnets",
    *_DENOISERS,
)
_HOOKS = ("sharding.", "attention.", "parallel.", _WRAPPERS, "comfy.brownian_noise", *_DENOISERS)
_OF_A_DEGREE = {
    "parallel.cfg": "cfg_degree",
    f"{_WRAPPERS}conditions": "cfg_degree",
    f"{_WRAPPERS}easycache": "cfg_degree",
    "parallel.data": "data_degree",
    f"{_WRAPPERS}batch": "data_degree",
    "parallel.step.": "step_degree",
    f"{_WRAPPERS}step_sampling": "step_degree",
    f"{_WRAPPERS}hook_keyframes": "step_degree",
    "comfy.brownian_noise": "step_degree",
}
_DESCRIBING = f"{_PACKAGE}comfy.describe."
_LIBRARIES = frozenset({"torch", "einops", *sys.stdlib_module_names})
_CALL = nn.Module._call_impl.__code__
_NOT_TAKEN = re.compile(r"(\S+)\(\) (?:got|missing|takes) ")


@contextmanager
def refusing_own_failures(kind: type[Unsupported] = MetAlone, library: Library = COMFYUI) -> Iterator[None]:
    """Turns an error of this pack's own code in the block into a refusal of this `kind`; logs the traceback."""
    try:
        yield
    except KINDS as error:
        home = _own_home(error)
        if not home or type(error).__module__.startswith(_PACKAGE):  # already an error message of ours
            raise
        what = str(error).partition("\n")[0]
        sentence = (
            f"{library.own_code} failed {_place(error)} with {library.installed} ({type(error).__name__}: {what}); "
            f"{_way_out(home, library)}"
        )
        log.exception("%s", sentence)
        raise kind(sentence) from error


def _own_home(error: Exception) -> str:
    """The module of this pack, within its runtime, whose code failed; empty if other code did.

    The innermost frame decides, except frames of libraries and of comfy/describe, which fail at what they are given,
    and of functions that only pass a call on. An attribute that one of our own objects lacks is our failure, wherever
    it is read. A workflow's function that does not take the arguments ComfyUI gives it is itself at fault, although our
    code calls it.
    """
    lacking = type(getattr(error, "obj", None)).__module__
    if _is_hook(lacking):
        return lacking.removeprefix(_PACKAGE)
    for frame in reversed(_frames(error)):
        home = namesake(frame.f_globals)
        name = home.__name__ if home is not None else ""
        if name.partition(".")[0] in _LIBRARIES or frame.f_code.co_name == "__torch_function__":
            continue
        if name.startswith(_DESCRIBING):
            continue
        return name.removeprefix(_PACKAGE) if _is_hook(name) and not _does_not_take(error, frame) else ""
    return ""


def _does_not_take(error: Exception, frame: FrameType) -> bool:
    """Whether a workflow's function does not accept what `frame` passes to it; it then has no frame of its own."""
    told = _NOT_TAKEN.match(str(error)) if isinstance(error, TypeError) else None
    if told is None:
        return False
    held = [each for each in frame.f_locals.values() if isinstance(each, tuple) or hasattr(each, "__dict__")]
    held += [part for each in held for part in (each if isinstance(each, tuple) else vars(each).values())]
    called = filter(None, map(_code_of, held))
    return any(each.__qualname__ == told[1] and not _is_known(each) for each in called)


def _code_of(called: object) -> FunctionType | None:
    """The Python function that runs when this object is called."""
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
    """Where in the model the error was: the innermost module that ran, by its path in the outermost one."""
    running = [frame.f_locals["self"] for frame in _frames(error) if frame.f_code is _CALL]
    if not running:
        return "outside of the model's modules"
    model = type(running[0]).__name__
    path = next((path for path, module in running[0].named_modules() if module is running[-1]), "")
    return f"at {path} ({type(running[-1]).__name__}) of {model}" if path else f"in {model}"


def _way_out(home: str, library: Library) -> str:
    if home.startswith(_OF_THE_SPLIT):
        return library.other_degrees
    degree = next((name for part, name in _OF_A_DEGREE.items() if home.startswith(part)), "")
    instead = f"set {degree} to 1, or " if degree else ""
    return f'{instead}set on_unsupported of Parallel Model to "run on one device".'
