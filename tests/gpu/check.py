"""Runs this pack on a real GPU and says what works and how fast:  python3 tests/gpu/check.py --out DIR [--only ...]

Each check is a process of its own with its own time limit. It prints one line; all figures are in DIR/gpu.json, which
holds no folder of the machine, the output of the checks in DIR/logs.txt. The checks in TOGETHER run side by side if the
card is large; those in ALONE, which measure time, run one after the other, and so do those in ON_TWO_CARDS, on two
cards by NCCL, where there are two.

In your own ComfyUI: run it with the Python that your ComfyUI runs with, with --comfyui FOLDER (or COMFYUI_PATH) and the
packages of tests/requirements.txt. On a bare machine (see pack.py) ComfyUI and its packages are unpacked from .gpu/.

Without a GPU: --simulated runs the checks of SIMULATED on a simulated card, which has no speed; `--device cpu` tries
the checks themselves, with small sizes: their figures mean nothing there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import tempfile
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
    "waits": 100,
    "pool": 120,
    "families": 150,
    "server": 180,
    "exact": 150,
    "pipelines": 200,
}
ALONE = {"environment": 60, "large": 150, "speed": 90}
ON_TWO_CARDS = {"nccl-2": 90, "waits-2": 100, "families-2": 150, "pool-2": 120, "large-2": 150}
"""Time limit of each check, in seconds (all three)."""
SIMULATED = {"attention": 120, "waits": 240, "families": 240}
LARGE_CARD = 40 << 30
"""With less memory than this, in bytes, checks run one after the other: side by side each would lack memory."""
NEEDED = ("torch", "pytest", "blake3", "cloudpickle", "matplotlib", "hypothesis")


class NotPossible(Exception):
    """The checks cannot run here; the message says what is missing."""


def prepare(comfyui: Path | None) -> dict[str, str]:
    """The environment variables of the checks. Unpacks .gpu/ if no ComfyUI is named.

    Raises NotPossible.
    """
    environ = dict(os.environ)
    if comfyui is not None:
        environ["COMFYUI_PATH"] = str(comfyui.resolve())
    if "COMFYUI_PATH" not in environ and (ROOT / ".gpu").is_dir():
        target = Path(tempfile.gettempdir()) / "compact-parallel-gpu"
        if not (target / "ComfyUI").is_dir():
            with tarfile.open(ROOT / ".gpu" / "ComfyUI.tar.xz") as archive:
                archive.extractall(target, filter="data")
            for wheel in (ROOT / ".gpu" / "wheels").iterdir():
                zipfile.ZipFile(wheel).extractall(target / "modules")
            for module in (ROOT / ".gpu" / "modules").iterdir():
                (target / "modules" / module.name).write_bytes(module.read_bytes())
        environ["COMFYUI_PATH"] = str(target / "ComfyUI")
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target / "modules"), environ.get("PYTHONPATH"))))
        sys.path.insert(0, str(target / "modules"))
    if not (Path(environ.get("COMFYUI_PATH", "")) / "comfy" / "sd.py").is_file():
        raise NotPossible(
            f"There is no ComfyUI in {environ.get('COMFYUI_PATH', 'COMFYUI_PATH')}; name it by --comfyui."
        )
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise NotPossible(
            f"This Python, {sys.executable}, lacks {', '.join(missing)}. Run this with the Python of your ComfyUI, "
            f"after {sys.executable} -m pip install -r requirements.txt -r tests/requirements.txt."
        )
    # With cuDNN's TF32, convolutions of different sizes would differ by more than they do in float32.
    return environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NVIDIA_TF32_OVERRIDE": "0"}


def cards() -> list[int]:
    """The bytes of memory of each CUDA card, as a process of its own sees them, so that this one holds none."""
    asking = "from torch.cuda import *; print([get_device_properties(i).total_memory for i in range(device_count())])"
    asked = subprocess.run([sys.executable, "-c", asking], check=False, capture_output=True, text=True)
    return json.loads(asked.stdout) if asked.returncode == 0 else []


def start(name: str, out: Path, environ: dict[str, str]) -> tuple[subprocess.Popen, float]:
    """Starts a check. Returns its process and the time.monotonic of its start."""
    check = name.removesuffix("-2")
    if check != name:
        environ = environ | {"COMPACT_PARALLEL_CARDS": "2"}
    command = [sys.executable, str(HERE / "one.py"), check, str(out / f"{name}.json")]
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


def without_folders(text: str, environ: dict[str, str]) -> str:
    """The text without what it says about where things lie on this machine."""
    places = {
        environ["COMFYUI_PATH"]: "ComfyUI",
        str(ROOT): "pack",
        sys.prefix: "python",
        tempfile.gettempdir(): "tmp",
        str(Path.home()): "home",
    }
    for place, name in places.items():
        text = text.replace(json.dumps(place)[1:-1], name)
    return text


def chosen(arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """The checks to run side by side, and those to run one after the other, with their limits. Raises NotPossible."""
    if arguments.simulated:
        together, alone = SIMULATED, {}
    elif arguments.device == "cpu":
        together, alone = TOGETHER, ALONE
    else:
        if not (found := cards()):
            raise NotPossible("torch finds no CUDA card here; --simulated runs what a simulated one can show.")
        together, alone = TOGETHER, ALONE | (ON_TWO_CARDS if len(found) > 1 else {})
        if min(found) < LARGE_CARD:
            together, alone = {}, together | alone
    if arguments.only:
        if unknown := set(arguments.only) - {*together, *alone}:
            raise NotPossible(
                f"{', '.join(sorted(unknown))}: no check here; there are {', '.join([*together, *alone])}."
            )
        together, alone = ({name: x for name, x in of.items() if name in arguments.only} for of in (together, alone))
    return together, alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder for gpu.json and logs.txt")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these checks")
    parser.add_argument("--comfyui", type=Path, help="the folder of your ComfyUI; else COMFYUI_PATH")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--simulated", action="store_true", help="on a simulated card")
    arguments = parser.parse_args()
    try:
        environ = prepare(arguments.comfyui)
        together, alone = chosen(arguments)
    except NotPossible as error:
        sys.exit(str(error))
    environ["COMPACT_PARALLEL_DEVICE"] = "cpu" if arguments.simulated else arguments.device
    if arguments.simulated:
        environ["COMPACT_PARALLEL_SIMULATED"] = "1"
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = []

    def tell(result: dict) -> None:
        results.append(json.loads(without_folders(json.dumps(result), environ)))
        (out / "gpu.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(json.dumps(results[-1]), flush=True)

    side_by_side = {name: start(name, out, environ) for name in together}
    for name, (process, started) in side_by_side.items():
        tell(finish(name, process, started, together[name], out))
    for name, limit in alone.items():
        tell(finish(name, *start(name, out, environ), limit, out))
    return int(any("error" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
