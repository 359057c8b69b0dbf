"""Runs all checks and tests, after making the environment they need: python3 tests/run.py [arguments of pytest]

Unless an argument chooses tests, two tests run at a time. Of factors that do not depend on each other every two values
are tested together; --full tests all combinations. COMPACT_PARALLEL_BROWSER=1 installs a browser and its driver where
they are missing (apt-get, npm), and then no browser test is skipped.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

TESTS = Path(os.path.abspath(__file__)).parent
ROOT = TESTS.parent


def from_here(argument: str) -> str:
    """An existing path, with or without "::test", made absolute; any other argument unchanged."""
    path, separator, test = argument.partition("::")
    return os.path.abspath(path) + separator + test if os.path.exists(path) else argument


def options(arguments: "list[str]") -> "list[str]":
    """The options of pytest for these arguments: two streams of tests (support/streams.py), unless some are chosen."""
    chosen = any(argument in ("-k", "-m") or os.path.exists(argument.partition("::")[0]) for argument in arguments)
    return ["--durations=25", *([] if chosen else ["-n", "2"])]


def main() -> int:
    """Runs ruff and pytest. Returns the exit code of pytest, or that of ruff if pytest's is 0."""
    sys.path[:0] = [str(ROOT / "workflows"), str(TESTS / "browser")]
    from python_check import check_python

    check_python()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    import needs
    from setup_environment import SetupError, prepare

    try:
        environment = prepare(tests=True)
    except SetupError as error:
        sys.exit(str(error))
    if needs.wanted():
        needs.get()
    python = str(environment.python)
    environ = dict(os.environ, COMFYUI_PATH=str(environment.comfyui), OMP_NUM_THREADS="1")
    environ.pop("COMPACT_PARALLEL_NEWEST", None)  # `prepare` has done that
    # Hundreds of processes import ComfyUI; where PYTHONDONTWRITEBYTECODE is set, each would compile it.
    compiling = [python, "-m", "compileall", "-q", "-j", "2", "-x", "custom_nodes", str(environment.comfyui)]
    subprocess.call(compiling, stdout=subprocess.DEVNULL)
    print("Checking the code with ruff", flush=True)
    code = subprocess.call([python, "-m", "ruff", "check", "--quiet", "--output-format", "concise"], cwd=str(ROOT))
    print("Running the tests with pytest", flush=True)
    arguments = options(sys.argv[1:]) + [from_here(argument) for argument in sys.argv[1:]]
    return subprocess.call([python, "-m", "pytest", *arguments], cwd=str(TESTS), env=environ) or code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; run it again to go on.")
