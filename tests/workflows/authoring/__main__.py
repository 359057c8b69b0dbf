"""Writes every workflow in both forms to workflows/ and workflows/api/."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parents[2] / "workflows"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="default: %(default)s")
    with urllib.request.urlopen(f"{parser.parse_args().server}/object_info", timeout=60) as answer:
        object_info = json.load(answer)
    sys.path.insert(0, str(HERE.parent))
    for name, (ui, api) in importlib.import_module("authoring.every").forms(object_info).items():
        (SHIPPED / f"{name}.json").write_text(ui, encoding="utf-8")
        (SHIPPED / "api" / f"{name}.json").write_text(api, encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
