"""The kernels where nothing can run them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME
from compact_parallel.runtime.compression.kernels import ops

TESTS = Path(__file__).resolve().parents[2]
WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import conftest, torch
from compact_parallel.runtime.compression.kernels import ops
assert not ops.usable(1, 64, torch.device("cuda"))
x, body, head = torch.zeros(2, 2), torch.zeros(64, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8)
try:
    ops.encode([x], [], [], [body], head, bytes(32), order=0, codec=1)
except RuntimeError as error:
    print(error)
"""


def test_import_without_triton():
    command = [sys.executable, "-c", WITHOUT_TRITON]
    run = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=True)
    assert "need Triton, which is not installed" in run.stdout


def test_tensors_that_are_on_no_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="CUDA tensors, not on cpu"):
        body, head = torch.zeros(64, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8)
        ops.encode([torch.zeros(2, 2)], [], [], [body], head, bytes(32), order=0, codec=BY_NAME["int8"].ident)


def test_what_is_usable():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    pytest.importorskip("triton")
    assert all(ops.usable(BY_NAME[name].ident, 3072, cuda) for name in ("1bit", "2bit", "3bit", "4bit", "int8", "fp8"))
    assert not ops.usable(BY_NAME["top_k"].ident, 3072, cuda)
    assert not ops.usable(BY_NAME["2bit"].ident, 1 << 15, cuda)
    assert ops.usable(BY_NAME["int8"].ident, 1 << 15, cuda)
    assert not ops.usable(BY_NAME["2bit"].ident, 3072, cpu)
