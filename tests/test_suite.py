"""How the suite itself runs: factors pairwise, two streams, the options of run.py."""

import importlib.util
import os
from itertools import combinations, product
from pathlib import Path

import pytest
from pairwise import pairwise
from streams import ORDER, TOGETHER, place, unit

HERE = Path(__file__).resolve().parent


def pairs(rows):
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}


@pytest.mark.parametrize("sizes", [(3, 9, 3), (2, 2, 2), (4, 4), (3, 12, 4, 4)])
def test_each_two_values_meet_in_few_rows(sizes):
    rows = list(product(*map(range, sizes)))
    chosen = pairwise(rows)
    assert pairs(chosen) == pairs(rows)
    largest, second = sorted(sizes)[:-3:-1]
    assert largest * second <= len(chosen) <= 1.5 * largest * second
    assert pairs(chosen[:-1]) != pairs(rows)


def test_only_what_meets_must_meet_and_the_first_rows_stay():
    rows = [(a, b, c) for a, b, c in product(range(3), repeat=3) if (a, b) != (0, 0)]
    chosen = pairwise(rows, [(2, 2, 2)])
    assert chosen[0] == (2, 2, 2) and set(chosen) <= set(rows)
    assert pairs(chosen) == pairs(rows)


def test_units_have_a_place_from_worker_pools_to_one_core():
    files = [str(path.relative_to(HERE)) for path in HERE.rglob("test_*.py")]
    units = sorted({unit(f"{file}::test") for file in files}, key=place)
    assert {"workflows", "browser"} <= set(units)
    assert units.index("job/test_exact.py") < units.index("sharding/test_rows.py") < units.index("test_config.py")
    assert units.index("test_config.py") < units.index("comfyui/test_seams.py")
    assert units.index("comfyui/test_lacking.py") < units.index("job/test_exact.py")
    for start in (*ORDER, *TOGETHER):
        assert any(file.startswith(start) for file in files), start


@pytest.mark.parametrize(
    ("arguments", "streams"),
    [([], True), (["-x", "--full"], True), (["-k", "flux"], False), (["-m", "seams"], False), (["tests"], False)],
)
def test_two_streams_unless_tests_are_chosen(arguments, streams, monkeypatch):
    spec = importlib.util.spec_from_file_location("run", HERE / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    monkeypatch.chdir(HERE.parent)
    assert ("-n" in run.options(arguments)) == streams
    assert os.path.isabs(run.from_here("tests/job::test")) and run.from_here("-x") == "-x"
