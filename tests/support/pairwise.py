"""Factors that do not depend on each other, pairwise: a plugin of pytest with the mark `pairwise` and `--full`.

A test with parameters of several factors runs for a few of all combinations, chosen so that each two values that meet
in a combination meet in one that is run. A fault that needs three values at once is found by `--full` only, which runs
all combinations. In a test file: `@pytest.mark.pairwise("family", "workflow", "arrangement")`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import combinations

import pytest


def pairwise(rows: Sequence[tuple[Hashable, ...]], first: Sequence[tuple[Hashable, ...]] = ()) -> list[tuple]:
    """A subset of `rows`, each a value per factor, in which each two values that meet in a row meet; it has `first`.

    Greedy, and the same for the same rows: the next row is the earliest with the most pairs that have not met.
    """
    left = {pair for row in rows for pair in _pairs(row)}
    chosen = list(first)
    for row in chosen:
        left -= _pairs(row)
    while left:
        best = max(rows, key=lambda row: len(left & _pairs(row)))
        chosen.append(best)
        left -= _pairs(best)
    return chosen


def _pairs(row: tuple[Hashable, ...]) -> set[tuple]:
    return set(combinations(enumerate(row), 2))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="all combinations of factors that are else tested pairwise")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pairwise(*names): of all values of these parameters each two meet once")


@pytest.hookimpl(trylast=True)  # after -k and -m have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects the combinations that are not needed. Those with the mark `seams` stay."""
    if config.getoption("full"):
        return
    groups = defaultdict(dict)
    for item in items:
        if mark := item.get_closest_marker("pairwise"):
            groups[item.path, item.originalname][tuple(item.callspec.params[name] for name in mark.args)] = item
    dropped = set()
    for found in groups.values():
        always = [row for row, item in found.items() if item.get_closest_marker("seams")]
        chosen = set(pairwise(list(found), always))
        dropped |= {item for row, item in found.items() if row not in chosen}
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether all combinations are wanted, for tests that go through some of them by themselves."""
    return pytestconfig.getoption("full")
