"""All codecs, by name and by number. Every module of this folder that has a CODECS tuple is picked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import TYPE_CHECKING

from ...config import ConfigError
from .codec import TYPICAL, Codec

if TYPE_CHECKING:
    from ...config import CompressionConfig

TAKEN = ("off", "uncompressed")
"""Names that reports and estimates use for uncompressed tensors; no codec may have them."""


def registered(codecs: Iterable[Codec]) -> Mapping[str, Codec]:
    """The codecs by name. Raises ValueError for a name or number that is taken or not allowed, and for a distortion
    without value_bits."""
    by_name: dict[str, Codec] = {}
    by_ident: dict[int, Codec] = {}
    for codec in codecs:
        where = f"Codec {codec.name!r} of {_file(codec)}"
        if codec.name in TAKEN:
            raise ValueError(f"{where} has the name of what is not compressed; give it another name.")
        if not 1 <= codec.ident <= 254:
            raise ValueError(f"{where} has ident {codec.ident}; it must be from 1 to 254.")
        if codec.distortion is not None and codec.value_bits is None:
            raise ValueError(f"{where} has a distortion but no value_bits; give it both or neither.")
        if other := by_name.get(codec.name):
            raise ValueError(f"{where} has the name of a codec of {_file(other)}; give one of them another name.")
        if other := by_ident.get(codec.ident):
            raise ValueError(
                f"{where} has ident {codec.ident}, which codec {other.name!r} of {_file(other)} has; give the newer "
                "one another."
            )
        by_name[codec.name] = by_ident[codec.ident] = codec
    return MappingProxyType(by_name)


def _file(codec: Codec) -> str:
    return f"{type(codec).__module__.rpartition('.')[2]}.py"


def _found() -> list[Codec]:
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return [codec for module in modules for codec in getattr(module, "CODECS", ())]


BY_NAME = registered(_found())
BY_IDENT = MappingProxyType({codec.ident: codec for codec in BY_NAME.values()})
_OFFERED = [codec for codec in BY_NAME.values() if codec.place is not None]
_RANKED = [codec for codec in BY_NAME.values() if codec.value_bits is not None]
OFFERED = tuple(codec.name for codec in sorted(_OFFERED, key=lambda codec: (codec.place, codec.name)))
"""Names of the codecs that the node offers, in its order."""
COMPARED = tuple(codec.name for codec in BY_NAME.values() if codec.place is None and codec.bits(*TYPICAL))
"""Names of the codecs that no node offers but a config may name, as benchmarks do."""
COARSE_TO_EXACT = tuple(codec.name for codec in sorted(_RANKED, key=lambda codec: (codec.value_bits, codec.name)))
"""Names of the codecs with a code for every value, from the fewest bits to the most."""


def require_known(config: CompressionConfig) -> None:
    """Raises ConfigError unless the codecs that `config` names can be used in a run."""
    for name in ("codec", "warmup_codec"):
        value = getattr(config, name)
        if value not in OFFERED + COMPARED:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(OFFERED + COMPARED)}.")


__all__ = ["BY_IDENT", "BY_NAME", "COARSE_TO_EXACT", "OFFERED", "TYPICAL", "Codec", "registered", "require_known"]
