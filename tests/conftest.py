"""The pack under a fixed name, and ComfyUI on the path, for every test.

The repository root is itself one Python package whose folder may have any name; tests import it as `compact_parallel`.
Its `__init__.py` is not executed (it needs a running ComfyUI), only its path is known, as in a worker.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import types
from pathlib import Path

import pytest
from device import DEVICE
from seams_subset import SUBSET

ROOT = Path(__file__).resolve().parent.parent

package = types.ModuleType("compact_parallel")
package.__path__ = [str(ROOT)]
sys.modules.setdefault("compact_parallel", package)

os.environ.setdefault("OMP_NUM_THREADS", "1")

# ComfyUI in this process is a CPU one, as `main.py --cpu` makes it, unless the tests run on a card. Tests of what needs
# no ComfyUI do not import it.
if "COMFYUI_PATH" in os.environ:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    if DEVICE == "cpu":
        importlib.import_module("comfy.cli_args").args.cpu = True
    else:  # the tiny models are to be evaluated in float32, here and in the workers, which get these arguments
        importlib.import_module("comfy.options").enable_args_parsing()
        sys.argv[1:] = ["--fp32-unet"]
        importlib.import_module("comfy.cli_args")


def take_destructor_away() -> None:
    """Python takes modules apart before the last models go, and ComfyUI's `ModelPatcher.__del__` calls into them."""
    if patcher := sys.modules.get("comfy.model_patcher"):
        del patcher.ModelPatcher.__del__


atexit.register(take_destructor_away)


_FILES = {ROOT / "tests" / test.partition("::")[0] for test in SUBSET}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m seams` no other file is imported: it may need what the ComfyUI that is tried does not have."""
    others = collection_path.suffix == ".py" and collection_path not in _FILES
    return True if others and config.getoption("markexpr") == "seams" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives those tests their mark."""
    for item in items:
        if item.nodeid in SUBSET:
            item.add_marker("seams")
