"""Turns a fresh Python process into a worker: the pool sends it a description, by which it imports the pack and serves.

The description holds the place of the pack, sys.path and the worker's Orders.

The pack is imported under the parent's module name, and its `__init__.py` is not run: classes and torch ops have the
same names in parent and worker, and no node is registered twice. The process loads this file by its path, before it
knows the pack, so nothing of the pack is imported at the top.
"""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def describe(orders: Any) -> dict[str, Any]:
    """In the pool's process: what a worker with these Orders has to import and to do, as plain JSON values."""
    return {
        "package": __name__.removesuffix(".runtime.pool.bootstrap"),
        "root": str(ROOT),
        "sys_path": [str(Path(entry).resolve()) for entry in sys.path],
        "worker": asdict(orders),
    }


def become_worker(described: dict[str, Any], connect: str, *arguments: Any) -> None:
    """In the new process: import the pack and serve the pool until it ends.

    `connect` is "module:attribute" inside the pack; called with `arguments` it makes the PoolConnection.
    """
    sys.path[:] = described["sys_path"]
    sys.argv[:] = described["worker"]["command_line"]
    package = types.ModuleType(described["package"])
    package.__path__ = [described["root"]]
    sys.modules[package.__name__] = package
    worker = importlib.import_module(f"{package.__name__}.runtime.pool.worker")
    connection = part_of(package.__name__, connect)(*arguments)
    worker.main(connection, worker.Orders(**described["worker"]))


def part_of(package: str, name: str) -> Any:
    """The object called "module:attribute" inside a package."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), attribute)
