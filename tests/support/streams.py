"""Tests in two streams side by side (pytest-xdist), so that both cores of a small machine are busy: a plugin of pytest.

The first stream takes files from the front of ORDER, where tests run on worker pools and servers; the second from its
back, where they need one core. They meet in the middle, so that few pools and servers are started twice. A test with
the mark `alone` measures time: while it runs, the other stream waits.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

ORDER = (
    "newer", "comfyui/test_lacking.py", "job", "features", "workflows", "real_server", "browser", "packs", "locales",
    "gpu", "pool", "attention", "compression/test_processes.py", "sharding", "test_", "report", "planner", "parallel",
    "tiny_model", "compression", "setup_env", "comfyui",
)  # fmt: skip
"""Beginnings of the names of test files; what begins with none of them comes in the middle."""
TOGETHER = {
    "browser/": "browser",
    "locales/": "workflows",
    "real_server/test_refused.py": "workflows",
    "real_server/test_server.py": "workflows",
    "workflows/": "workflows",
}
"""Beginnings of the names of test files, each with the unit they belong to, because they share a server."""


def unit(nodeid: str) -> str:
    """The tests that stay together: those of a file, or of a unit in TOGETHER."""
    file = nodeid.partition("::")[0]
    return next((name for start, name in TOGETHER.items() if file.startswith(start)), file)


def place(name: str) -> tuple[int, str]:
    """Sorts units as in ORDER, by the longest beginning."""
    found = max((start for start in ORDER if name.startswith(start)), key=len, default="pool")
    return ORDER.index(found), name


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: measures time; nothing else runs meanwhile")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of the streams."""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class Streams(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            from_the_back = int(node.gateway.id.removeprefix("gw")) % 2
            ordered = sorted(self.workqueue, key=place, reverse=bool(from_the_back))
            self.workqueue.move_to_end(ordered[0], last=False)
            super()._assign_work_unit(node)

    return Streams(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time limit of the test
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Lets a test with the mark `alone` wait for the other stream's test, and the other stream for it."""
    if not hasattr(item.config, "workerinput"):
        return (yield)  # there is one stream
    folder = item.config._tmp_path_factory.getbasetemp().parent  # which the streams share
    alone = item.get_closest_marker("alone") is not None
    # Who wants to be alone keeps the door shut until the other stream's test has ended.
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with _locked(folder / "door", fcntl.LOCK_EX) as door, _locked(folder / "room", kind):
        fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[IO[bytes]]:
    with path.open("ab") as file:
        fcntl.flock(file, kind)
        yield file
