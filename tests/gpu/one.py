"""Runs one check of check.py in this process:  one.py NAME RESULT.json

A check is a module of checks/ with a function `run(tell)`, which calls `tell(name=figure, ...)` as it goes. The figures
told so far are kept, however the check ends.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main(name: str, result: str) -> None:
    sys.path[:0] = [str(TESTS), str(TESTS / "bench")]
    importlib.import_module("conftest")
    found: dict = {}

    def tell(**figures: object) -> None:
        found.update(figures)
        Path(result).write_text(json.dumps(found, default=str))
        print(figures, flush=True)

    importlib.import_module(f"gpu.checks.{name}").run(tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
