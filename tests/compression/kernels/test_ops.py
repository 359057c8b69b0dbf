"""The operators where nothing can run them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME
from compact_parallel.runtime.compression.kernels import ops
from torch._subclasses.fake_tensor import FakeTensorMode

TESTS = Path(__file__).resolve().parents[2]
WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import conftest, torch
from compact_parallel.runtime.compression.kernels import ops
assert not ops.usable(1, 64, torch.device("cuda"))
try:
    ops.fit([torch.zeros(2, 2)], [], [])
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
        ops.fit([torch.zeros(2, 2)], [], [])


@pytest.mark.parametrize("name", ("1bit", "int8"))
def test_shapes_without_data(name):
    """A compiler learns shapes from the fakes, for tensors of any device."""
    ident = BY_NAME[name].ident
    with FakeTensorMode():
        xs, bases = ([torch.empty(40, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3)] for _ in range(2))
        bodies = list(torch.empty(3, 8192, device="cuda", dtype=torch.uint8))
        sums = ops.fit(xs, bases, [])
        losses = ops.encode(xs, bases, [], [0.0] * 3, [1] * 3, bodies, ident)
        ops.decode(bodies, bases, [], [0.0] * 3, [1] * 3, xs, ident)
    assert (sums.shape, losses.shape) == ((3, 4), (3, 2))
    assert {(x.dtype, x.device.type) for x in (sums, losses)} == {(torch.float32, "cuda")}


def test_what_is_usable():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    pytest.importorskip("triton")
    assert all(ops.usable(BY_NAME[name].ident, 3072, cuda) for name in ("1bit", "2bit", "3bit", "4bit", "int8", "fp8"))
    assert not ops.usable(BY_NAME["top_k"].ident, 3072, cuda)
    assert not ops.usable(BY_NAME["2bit"].ident, 1 << 15, cuda)
    assert ops.usable(BY_NAME["int8"].ident, 1 << 15, cuda)
    assert not ops.usable(BY_NAME["2bit"].ident, 3072, cpu)
