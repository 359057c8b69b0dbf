"""Runs all checks and tests, after making the environment they need: python3 tests/run.py [arguments of pytest]"""

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


def main() -> int:
    """Runs ruff and pytest. Returns the exit code of pytest, or that of ruff if pytest's is 0."""
    sys.path.insert(0, str(ROOT / "workflows"))
    from python_check import check_python

    check_python()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    from setup_environment import SetupError, prepare

    try:
        environment = prepare(tests=True)
    except SetupError as error:
        sys.exit(str(error))
    python = str(environment.python)
    environ = dict(os.environ, COMFYUI_PATH=str(environment.comfyui), OMP_NUM_THREADS="1")
    environ.pop("COMPACT_PARALLEL_NEWEST", None)  # `prepare` has done that
    print("Checking the code with ruff", flush=True)
    code = subprocess.call([python, "-m", "ruff", "check", "--quiet", "--output-format", "concise"], cwd=str(ROOT))
    print("Running the tests with pytest", flush=True)
    arguments = [from_here(argument) for argument in sys.argv[1:]]
    return subprocess.call([python, "-m", "pytest", *arguments], cwd=str(TESTS), env=environ) or code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; run it again to go on.")
