"""What the requirements promise: the oldest releases that they allow work, too."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from compact_parallel.workflows.setup_environment import ROOT, read_requirements

OLDEST = ROOT / ".cache" / "oldest"
TESTS = Path(__file__).resolve().parents[1]
IN_A_JOB = (
    "job/test_changed.py::test_a_changed_block_runs_whole_and_the_report_says_so",
    "report/test_plot.py",
)


@pytest.mark.skipif(not (OLDEST / "stamp").exists(), reason="not started by tests/run.py")
def test_a_job_and_a_plot_with_the_oldest_releases():
    found = {each.name: each.version for each in distributions(path=[str(OLDEST)])}
    wanted = [line.partition(",")[0].replace(">=", "==") for line in read_requirements(ROOT / "requirements.txt")]
    for name, version in (line.split("==") for line in wanted):
        assert found[name].startswith(version)
    script = (
        "import sys, cloudpickle, blake3, matplotlib, pytest\n"
        "assert all(module.__file__.startswith(sys.argv[1]) for module in (cloudpickle, blake3, matplotlib))\n"
        "sys.exit(pytest.main(sys.argv[2:]))"
    )
    environ = os.environ | {"PYTHONPATH": str(OLDEST)}
    command = [sys.executable, "-c", script, str(OLDEST), "-q", *IN_A_JOB]
    done = subprocess.run(command, cwd=TESTS, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
