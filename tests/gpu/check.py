"""Runs this pack on a real GPU and says what works and how fast:  python3 tests/gpu/check.py --out DIR [--only ...]

Each check is a process of its own with its own time limit. It prints one line; all figures are in DIR/gpu.json, the
output of the checks in DIR/logs.txt. The checks in TOGETHER run side by side; those in ALONE, which measure time, run
one after the other.

On a bare machine (see pack.py) ComfyUI and its packages are unpacked from .gpu/; elsewhere COMFYUI_PATH names a ComfyUI
and this Python must be the one that it runs with. `--device cpu` tries the checks themselves on a machine without a
GPU, with small sizes: their figures mean nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS, ROOT = HERE.parent, HERE.parents[1]
TOGETHER = {
    "kernels": 150,
    "attention": 60,
    "pinning": 60,
    "nccl": 60,
    "waits": 90,
    "pool": 120,
    "families": 150,
    "server": 180,
    "exact": 150,
}
ALONE = {"environment": 60, "large": 150, "speed": 90}
"""Time limit of each check, in seconds (TOGETHER and ALONE)."""


def prepare() -> dict[str, str]:
    """Unpacks .gpu/ if COMFYUI_PATH is not set. Returns the environment variables of the checks."""
    environ = dict(os.environ)
    if "COMFYUI_PATH" not in environ:
        target = Path(environ.get("TMPDIR", "/tmp")) / "compact-parallel-gpu"
        if not (target / "ComfyUI").is_dir():
            with tarfile.open(ROOT / ".gpu" / "ComfyUI.tar.xz") as archive:
                archive.extractall(target, filter="data")
            for wheel in (ROOT / ".gpu" / "wheels").iterdir():
                zipfile.ZipFile(wheel).extractall(target / "modules")
            for module in (ROOT / ".gpu" / "modules").iterdir():
                (target / "modules" / module.name).write_bytes(module.read_bytes())
        environ["COMFYUI_PATH"] = str(target / "ComfyUI")
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target / "modules"), environ.get("PYTHONPATH"))))
    # With cuDNN's TF32, convolutions of different sizes would differ by more than they do in float32.
    return environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NVIDIA_TF32_OVERRIDE": "0"}


def start(name: str, out: Path, environ: dict[str, str]) -> tuple[subprocess.Popen, float]:
    """Starts a check. Returns its process and the time.monotonic of its start."""
    command = [sys.executable, str(HERE / "one.py"), name, str(out / f"{name}.json")]
    with (out / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=TESTS, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return process, time.monotonic()


def finish(name: str, process: subprocess.Popen, started: float, limit: float, out: Path) -> dict:
    """Waits for a check, and kills it at its limit. Returns its figures and, if it failed, the error and the last lines
    of its log."""
    try:
        process.wait(max(0.1, started + limit - time.monotonic()))
        ended = f"ended with code {process.returncode}"
    except subprocess.TimeoutExpired:
        ended = f"took more than {limit} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
    path = out / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if process.returncode:
        lines = (out / f"{name}.log").read_text(errors="replace").strip().splitlines()
        found |= {"error": ended, "end": lines[-15:]}
    path.unlink(missing_ok=True)
    with (out / "logs.txt").open("a", encoding="utf-8") as logs:
        log = out / f"{name}.log"
        logs.write(f"==== {name}\n{log.read_text(errors='replace')}\n")
        log.unlink()
    return {"check": name, "seconds": round(time.monotonic() - started, 1)} | found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[*TOGETHER, *ALONE], default=[*TOGETHER, *ALONE])
    parser.add_argument("--device", default="cuda:0")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environ = prepare() | {"COMPACT_PARALLEL_DEVICE": arguments.device}
    results = []

    def tell(result: dict) -> None:
        results.append(result)
        (out / "gpu.json").write_text(json.dumps(results, indent=1))
        print(json.dumps(result), flush=True)

    side_by_side = {name: start(name, out, environ) for name in TOGETHER if name in arguments.only}
    for name, (process, started) in side_by_side.items():
        tell(finish(name, process, started, TOGETHER[name], out))
    for name, limit in ALONE.items():
        if name in arguments.only:
            tell(finish(name, *start(name, out, environ), limit, out))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
