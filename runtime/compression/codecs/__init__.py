"""All codecs, by name and by number. Every module of this folder that has a CODECS tuple is picked up."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from .base import Codec


def _found() -> list[Codec]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return [codec for module in modules for codec in getattr(module, "CODECS", ())]


BY_NAME = MappingProxyType({codec.name: codec for codec in _found()})
BY_IDENT = MappingProxyType({codec.ident: codec for codec in BY_NAME.values()})

__all__ = ["BY_IDENT", "BY_NAME", "Codec"]
