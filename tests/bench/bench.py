"""The common start of all benchmarks: the environment of the tests, the pack's import name, ComfyUI on the CPU.

    import bench
    bench.begin(__file__)

A benchmark is one command, `python3 tests/bench/NAME.py`, with the set-up of the tests.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def begin(script: str) -> None:
    """Restarts `script` inside the tests' environment, then prints the machine and the versions. Import ComfyUI only
    after this call."""
    sys.path[:0] = [str(ROOT / "workflows"), str(ROOT / "tests"), str(ROOT / "tests" / "support")]
    setup = importlib.import_module("setup_environment")
    try:
        environment = setup.prepare(tests=True)
    except setup.SetupError as error:
        sys.exit(str(error))
    setup.enter(environment, script, sys.argv[1:])
    os.environ["COMFYUI_PATH"] = str(environment.comfyui)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    package = types.ModuleType("compact_parallel")
    package.__path__ = [str(ROOT)]
    sys.modules.setdefault("compact_parallel", package)
    sys.path.insert(0, str(environment.comfyui))
    importlib.import_module("comfy.cli_args").args.cpu = True
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    version = importlib.import_module("comfyui_version").__version__
    print(
        f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"ComfyUI {version}\n",
        flush=True,
    )


def processor() -> str:
    """The processor's name, as far as the system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """The rows as a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
