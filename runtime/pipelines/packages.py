"""Whether the packages that pipelines need are installed and new enough, mostly from their metadata, without an import.

xfuser, which has the pipelines of xDiT, comes for Linux only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path

from ..config import ConfigError

DIFFUSERS = {"diffusers": (0, 42), "accelerate": (1, 0), "protobuf": (4, 21)}
XFUSER = {"xfuser": (0, 7)}


def require_diffusers() -> None:
    """Raises ConfigError, which says what to install, unless diffusers and what it loads folders with are there."""
    _require(DIFFUSERS, "diffusers")


def require_xfuser() -> None:
    """Raises ConfigError, which says what to install, unless xfuser and all that diffusers needs are there."""
    if not sys.platform.startswith("linux"):
        raise ConfigError(
            f"xDiT's pipelines need xfuser, which does not run on {sys.platform}; use the pipelines of diffusers, or "
            "Linux."
        )
    _require(DIFFUSERS | XFUSER, "xDiT")


def require_sentencepiece(file: Path) -> None:
    """Raises ConfigError, which says what to install, unless sentencepiece can read files such as `file`.

    A release of sentencepiece works with protobuf's releases of its own time and later only. transformers hides that:
    it then takes the file for one of tiktoken, and asks for that package.
    """
    try:
        import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:  # protobuf has a class of its own for it
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"folder: {file} cannot be read ({reason}); run {sys.executable} -m pip install --upgrade sentencepiece "
            "protobuf and start ComfyUI again."
        ) from error


def _require(wanted: Mapping[str, tuple[int, int]], whose: str) -> None:
    wrong = {name: found for name, lowest in wanted.items() if (found := _wrong_version(name, lowest)) is not None}
    if wrong:
        found = " and ".join(f"{name} is {version}" for name, version in wrong.items())
        install = " ".join(f'"{name}>={wanted[name][0]}.{wanted[name][1]}"' for name in wrong)
        raise ConfigError(
            f"{found}, which the pipelines of {whose} cannot work with; run {sys.executable} -m pip install {install} "
            "and start ComfyUI again."
        )


def _wrong_version(name: str, lowest: tuple[int, int]) -> str | None:
    """What is wrong with the installed package, None if nothing is."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
    first, second, *_ = [*map(int, re.findall(r"\d+", version)), 0, 0]
    return f"{version}, older than {lowest[0]}.{lowest[1]}" if (first, second) < lowest else None
