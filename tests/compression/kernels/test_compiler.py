"""A Triton that cannot compile is found once, in the process that wanted it, and its codecs are not used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
COMMON = """
import contextlib, sys
if "missing" in sys.argv:
    sys.modules["triton"] = None
import conftest, torch
from compact_parallel.runtime.compression.kernels import ops
from compact_parallel.runtime.compression.kernels.compiler import compiler
cuda = torch.device("cuda", 0)
"""
TRY = """
before = ops.usable(1, 64, cuda)
compiler().try_on(cuda)
print(before, ops.usable(1, 64, cuda), compiler().warning)
"""
# What Triton does at its first launch on a card; that there is a card is pretended.
FIRST_LAUNCH = """
from compact_parallel.runtime.compression.kernels import trial
from triton.runtime.build import compile_module_from_src
trial.fault = lambda device: compile_module_from_src("static int nothing;", "nothing_" + sys.argv[-1]) and ""
"""
INTERPRETED = """
from compact_parallel.runtime.compression.kernels import trial
torch.cuda.device = lambda device: contextlib.nullcontext()
print(repr(trial.fault(torch.device("cpu"))))
double = trial._double
trial._double = {(1,): lambda x_N, N: double[(1,)](x_N, N // 2)}
print(repr(trial.fault(torch.device("cpu"))))
"""


def said(code, *arguments, **environment):
    command = [sys.executable, "-c", COMMON + code, *arguments]
    run = subprocess.run(
        command, cwd=TESTS, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_without_triton():
    assert said(TRY, "missing").startswith("False False Triton cannot be used here (it is not installed), so compres")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"CC": "/bin/false"}, "the C compiler failed"), ({"CC": "/missing/cc"}, "No such file or directory")],
)
def test_without_a_c_compiler(environment, reason, tmp_path):
    pytest.importorskip("triton")
    before, after, warning = said(FIRST_LAUNCH + TRY, "c", TRITON_CACHE_DIR=str(tmp_path), **environment).split(" ", 2)
    assert (before, after) == ("True", "False")
    assert warning.startswith("Triton cannot be used here (") and reason in warning.partition(")")[0]
    assert warning.endswith("Triton needs a C compiler (gcc) and Python's headers (python3-dev).")
    assert "\n" not in warning


def test_a_card_that_is_not_there_is_a_reason_too():
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("here is a card")
    assert said(TRY).startswith("True False Triton cannot be used here (")


def test_the_trial_kernel_doubles_and_wrong_numbers_are_seen():
    pytest.importorskip("triton")
    lines = said(INTERPRETED, TRITON_INTERPRET="1").splitlines()
    assert lines == ["''", "'its kernels compute wrong numbers'"]


def test_the_trial_kernel_compiles_for_cards():
    triton = pytest.importorskip("triton")
    from compact_parallel.runtime.compression.kernels import trial
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(trial._double, {"x_N": "*fp32", "N": "constexpr"}, {"N": 16})
    assert "st.global" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
