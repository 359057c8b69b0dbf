"""Runs files of the test suite on the card, with pytest."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

FAILURES = 25


def suite(tell: Callable, *arguments: str, processes: int = 1, spread: str = "loadfile") -> None:
    """Tells how many tests passed and failed, and the first failures with their reasons.

    With pytest-xdist several processes share the tests; `spread` is its --dist.
    """
    split = ["-n", str(processes), "--dist", spread] if processes > 1 and find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-v", "-rf", "--tb=short", "--timeout=100", *split, *arguments]
    counts = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}
    words = {"PASSED": "passed", "FAILED": "failed", "ERROR": "errors", "SKIPPED": "skipped"}
    failures: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout:
            print(line, end="", flush=True)
            if line.startswith(("FAILED ", "ERROR ")):  # the summary at the end
                failures.append(line.strip()[:300])
            elif found := re.search(r"\b(PASSED|FAILED|ERROR|SKIPPED)\b", line):
                counts[words[found[1]]] += 1
                tell(**counts)
    tell(**counts, failures=failures[:FAILURES])
