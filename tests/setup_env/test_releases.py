"""What the requirements promise: the oldest releases that they allow work, too."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from compact_parallel.runtime.pipelines.packages import DIFFUSERS, XFUSER
from compact_parallel.workflows.setup_environment import ROOT, read_requirements
from packaging.requirements import Requirement
from packaging.version import Version

OLDEST = ROOT / ".cache" / "oldest"
TESTS = Path(__file__).resolve().parents[1]
IN_A_JOB = (
    "job/test_changed.py::test_a_changed_block_runs_whole_and_the_report_says_so",
    "report/test_plot.py",
    "pipelines/test_pool.py::test_auto_is_exact_and_shares[latte]",
    "pipelines/test_pool.py::test_xdit_is_exact[cfg]",
)
MODULES = ("cloudpickle", "blake3", "matplotlib", "diffusers", "accelerate", "google.protobuf", "xfuser")
SCRIPT = """
import importlib, sys, pytest
for name in {modules!r}:
    assert importlib.import_module(name).__file__.startswith(sys.argv[1]), name
sys.exit(pytest.main(sys.argv[2:]))
"""


def lower_bounds() -> dict[str, str]:
    """The lowest release of each required package that is for this system."""
    wanted = map(Requirement, read_requirements(ROOT / "requirements.txt"))
    here = [each for each in wanted if each.marker is None or each.marker.evaluate()]
    return {each.name: next(part.version for part in each.specifier if part.operator == ">=") for each in here}


def test_nodes_ask_for_the_releases_that_are_required():
    bounds = {name: Version(lowest).release[:2] for name, lowest in lower_bounds().items()}
    assert {name: bounds[name] for name in DIFFUSERS} == DIFFUSERS
    assert bounds.get("xfuser", XFUSER["xfuser"]) == XFUSER["xfuser"]


@pytest.mark.skipif(not (OLDEST / "stamp").exists(), reason="not started by tests/run.py")
def test_a_job_a_plot_and_pipelines_with_the_oldest_releases():
    found = {each.name: each.version for each in distributions(path=[str(OLDEST)])}
    bounds = lower_bounds()
    for name, lowest in bounds.items():
        assert found[name].startswith(lowest)
    tests = [test for test in IN_A_JOB if "xdit" not in test or "xfuser" in bounds]
    script = SCRIPT.format(modules=[name for name in MODULES if name != "xfuser" or name in bounds])
    environ = os.environ | {"PYTHONPATH": str(OLDEST)}
    command = [sys.executable, "-c", script, str(OLDEST), "-q", *tests]
    done = subprocess.run(command, cwd=TESTS, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
