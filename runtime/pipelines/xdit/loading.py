"""Imports xfuser without its prints, and replaces parts of it for as long as a run lasts."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from ...attention.unsupported import Unsupported

_LOG_LEVEL = "LOG_LEVEL"
"""The environment variable from which xfuser reads, once, how much it writes to the standard output."""
_LOGGERS = ("xfuser", "distvae")


def load(name: str) -> ModuleType:
    """A module of xfuser or yunchang. Raises Unsupported, in one sentence, if it is missing or cannot be imported."""
    if name in sys.modules and "xfuser" in sys.modules:
        return sys.modules[name]
    try:
        with _environment_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.environ[_LOG_LEVEL] = "error"
            importlib.import_module("xfuser")
            return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(
            f"xDiT cannot be used because {name} cannot be imported ({error}); install xfuser 0.7.0, or choose another "
            "way to run the pipeline."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps xfuser, whoever has imported it, from writing to the standard output anything but errors."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Undoes what an import changes in the environment."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def part(owner: Any, name: str) -> Any:
    """The attribute `name` of a module or class of xfuser. Raises Unsupported, in one sentence, if it has none."""
    if not hasattr(owner, name):
        raise Unsupported(
            f"{getattr(owner, '__name__', owner)} of the installed xfuser has no {name}, as version 0.7.0 has; install "
            "that version, or choose another way to run the pipeline."
        )
    return getattr(owner, name)


def replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute until `stack` is closed. Raises Unsupported if xfuser has no such attribute."""
    before = part(owner, name)
    setattr(owner, name, value)
    stack.callback(setattr, owner, name, before)
