"""The arithmetic of the kernels, in a process of its own: Triton decides at import whether it interprets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

HERE = Path(__file__).parent


@pytest.mark.timeout(900)
def test_kernels_equal_the_reference():
    """All of interpreted.py."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", str(HERE / "interpreted.py")]
    environ = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=HERE.parents[1], env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
