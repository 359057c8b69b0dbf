"""The start that the commands on the official templates share."""

from __future__ import annotations

import argparse
import importlib
import sys

import bench


def parser(description: str) -> argparse.ArgumentParser:
    """A command line with `--only`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", nargs="+", default=[""], help="only the templates whose name contains one of these")
    return made


def begin(script: str) -> None:
    """Continues inside the tests' environment. Exits with a sentence if the browser's driver is missing."""
    bench.begin(script)
    sys.path.append(str(bench.ROOT / "tests" / "browser"))
    if reason := importlib.import_module("needs").missing():
        sys.exit(reason)
