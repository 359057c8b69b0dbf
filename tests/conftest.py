"""Makes the pack importable as `compact_parallel`, ComfyUI by its path, and the helpers of support/, for every test.

The repository root is itself one Python package whose folder may have any name; tests import it as `compact_parallel`.
Its `__init__.py` is not executed (it needs a running ComfyUI); only the package's path is set, as in a worker.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from device import DEVICE
from seams_subset import SUBSET

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ("forked_workers", "pairwise", "shared_server", "streams")

package = types.ModuleType("compact_parallel")
package.__path__ = [str(ROOT)]
sys.modules.setdefault("compact_parallel", package)

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Unless the tests run on a card, ComfyUI in this process is set to the CPU, as by `main.py --cpu`. Tests that need no
# ComfyUI do not import it.
if "COMFYUI_PATH" in os.environ:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    if DEVICE == "cpu":
        importlib.import_module("comfy.cli_args").args.cpu = True
    else:  # evaluate the tiny models in float32, here and in the workers, which get these arguments
        importlib.import_module("comfy.options").enable_args_parsing()
        sys.argv[1:] = ["--fp32-unet"]
        importlib.import_module("comfy.cli_args")


def take_destructor_away() -> None:
    """Removes ComfyUI's `ModelPatcher.__del__`: at exit it would call into modules that Python has already cleared."""
    if patcher := sys.modules.get("comfy.model_patcher"):
        del patcher.ModelPatcher.__del__


atexit.register(take_destructor_away)


_FILES = {ROOT / "tests" / test.partition("::")[0] for test in SUBSET}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m seams` imports only the files of SUBSET: others may need what the tested ComfyUI does not have."""
    others = collection_path.suffix == ".py" and collection_path not in _FILES
    return True if others and config.getoption("markexpr") == "seams" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of SUBSET with `seams`."""
    for item in items:
        if item.nodeid in SUBSET:
            item.add_marker("seams")
