"""Collects ComfyUI and the missing packages of a bare GPU machine in .gpu/:  python3 tests/gpu/pack.py

Such a machine has Python 3.12, torch, Triton and common packages (transformers, scipy, aiohttp, pytest, ...), and no
network. The folder holds ComfyUI as an archive, and wheels of the other packages that ComfyUI and this pack import; av,
which reads and writes videos and is 33 MB large, is replaced by a module that can only be imported. The folder is below
30 MiB; check.py unpacks it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".gpu"
WHEELS = (
    "torchsde", "trampoline", "blake3", "comfy-aimdo==0.4.11", "pydantic", "pydantic-core", "annotated-types",
    "typing-inspection", "pydantic-settings", "python-dotenv", "SQLAlchemy", "greenlet", "alembic", "Mako",
    "simpleeval", "spandrel",
    "diffusers", "accelerate", "xfuser", "yunchang", "importlib-metadata", "zipp",
)  # fmt: skip
PURE = "comfy-kitchen==0.2.26"
"""Downloaded as a pure Python wheel, which does the same with torch; the wheel with kernels is 43 MB large."""
PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
LEFT_OUT = ("blueprints", "comfy_api_nodes", "input", "models", "output", "script_examples", "tests",
            "tests-unit", "openapi.yaml")  # fmt: skip
STAND_IN = '''"""In the place of av, on a machine that reads and writes no videos."""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

__path__ = []


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


def __getattr__(name):
    return getattr(_Anything, name) if name.startswith("__") else _Anything(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self, is_package=True) if name.startswith("av.") else None

    def exec_module(self, module):
        module.__getattr__ = __getattr__


sys.meta_path.append(_Finder())
'''


def download(*arguments: str) -> None:
    """Downloads wheels into the folder, without their dependencies: WHEELS is complete."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--python-version", "3.12", "-d", str(FOLDER / "wheels"), *arguments], check=True)


def main() -> None:
    sys.path.insert(0, str(ROOT / "workflows"))
    import setup_environment

    comfyui = setup_environment.prepare().comfyui
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "modules").mkdir(parents=True)
    platforms = [part for name in PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    download("--implementation", "cp", *platforms, *WHEELS)
    download("--implementation", "py", "--abi", "none", "--platform", "any", PURE)
    (FOLDER / "modules" / "av.py").write_text(STAND_IN, encoding="utf-8")
    with tarfile.open(FOLDER / "ComfyUI.tar.xz", "w:xz") as archive:
        for entry in sorted(comfyui.iterdir()):
            if entry.name not in LEFT_OUT and not entry.name.startswith("."):
                archive.add(entry, f"ComfyUI/{entry.name}", filter=_without_caches)
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{FOLDER}: {size / 2**20:.1f} MiB")


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


if __name__ == "__main__":
    main()
