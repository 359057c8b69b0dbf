"""What the browser copies for an issue: the newest report, versions, devices and pools."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..runtime.host import installed
from ..runtime.pool.pool import Pool
from ..runtime.pool.registry import pools
from ..runtime.report.history import runs
from ..runtime.report.issue import issue_text
from ..runtime.report.live import live

PACK = Path(__file__).resolve().parent.parent
_PACKAGES = ("triton", "comfy-kitchen", "comfy-aimdo", "safetensors")


def issue() -> str:
    """The text for an issue; see `issue_text`."""
    comfyui = Path(sys.modules["comfy"].__path__[0]).parent
    return issue_text(runs().latest(), about(), (PACK, comfyui))


def about() -> dict[str, Any]:
    """The versions of what runs here, the cards of this machine and what is known of each pool."""
    pack = re.search(r'^version = "(.*)"', (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "versions": {
            "pack": pack[1] if pack else None,
            "comfyui": installed(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            **{name: _version(name) for name in _PACKAGES},
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        },
        "cards": _cards(),
        "pools": [_pool(pool) for pool in pools().all()],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cards() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": card.name, "bytes": card.total_memory} for card in found]


def _pool(pool: Pool) -> dict[str, Any]:
    """Of an error only the first line: a worker's last words may hold anything, prompts too."""
    status, run = pool.status(), live().of(pool.config.name)
    error = status["error"] or (run.error if run is not None else "")
    return {
        "devices": [worker["device"] for worker in status["workers"]],
        "backend": status["backend"],
        "state": status["state"],
        "link": status["link"],
        "last_error": error.partition("\n")[0],
    }
