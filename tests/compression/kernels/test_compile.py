"""Every kernel compiles for the GPUs of the last generations, without one here."""

import re

import pytest
import torch

triton = pytest.importorskip("triton")

from compact_parallel.runtime.compression.kernels import block_kernels, fit, lloyd_max_kernels, scales  # noqa: E402
from compact_parallel.runtime.compression.kernels.values import ELEMENT, LAUNCH  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

ARCHITECTURES = (80, 90, 100)
POINTERS = {
    "table": "*i64", "u_SN": "*u16", "cell_codes": "*u8",
    **dict.fromkeys(
        ("row_means", "column_means", "tile_means", "v_SC", "inverse_v_SC", "mean_S", "tails_SP2", "levels", "sums"),
        "*fp32"),
}  # fmt: skip
FLOATS = ("over_tokens", "over_channels", "over_sampled")
FUSED = r"\bfma\."


def variants():
    """(name, kernel, compile-time arguments): what the launches use for rows of 3072 channels."""
    tile = {"ROWS": 8, "WIDTH": 256}
    for bases in (0, 1, 2):
        fitted = {"BASES": bases, "PROGRAMS": fit.PROGRAMS}
        yield f"measure {bases}", scales._measure, tile | fitted | {"STEPS": scales.STEPS}
        yield f"write {bases}", fit._write, fitted
    for tails in (False, True):
        yield f"scale {tails}", scales._scale, {"TAILS": tails, "SLICE": scales.SLICE, "DEPTH": scales.DEPTH}
    for bases in (0, 1, 2):
        yield f"fit {bases}", fit._fit, {"ROWS": 8, "WIDTH": 512, "BASES": bases}
    for bits in (1, 2, 3, 4):
        cells = {"BITS": bits, "CELLS": 1 << bits if bits < 3 else lloyd_max_kernels.CELLS}
        yield f"{bits}bit encode", lloyd_max_kernels._encode, cells | {"WIDTH": 1024, "CHUNKS": 3}
        yield (
            f"{bits}bit decode",
            lloyd_max_kernels._decode,
            {"BITS": bits, "ROWS": lloyd_max_kernels.ROWS, "WIDTH": 1024},
        )
    for name, largest in (("int8", 127), ("fp8", 448)):
        rows = {"EVEN": True, "BLOCKS": block_kernels.BLOCKS, "FLOAT8": name == "fp8"}
        yield f"{name} encode", block_kernels._encode, rows | {"LARGEST": largest}
        yield f"{name} decode", block_kernels._decode, rows


VARIANTS = {name: (kernel, fixed) for name, kernel, fixed in variants()}


def compiled(name, architecture, dtype=torch.bfloat16, aligned=True, options=LAUNCH, channels="i32", **changes):
    """What a launch makes; aligned addresses and channels where `aligned`."""
    kernel, fixed = VARIANTS[name]
    fixed = fixed | {"element": ELEMENT[dtype], "aligned": aligned} | changes
    if channels == "constexpr":
        fixed["channels"] = 1
    names = kernel.arg_names
    fixed = {key: value for key, value in fixed.items() if key in names}
    kinds = POINTERS | dict.fromkeys(FLOATS, "fp32") | dict.fromkeys(fixed, "constexpr")
    divisible = [key for key in names if key in POINTERS or (key == "channels" and key not in fixed and aligned)]
    source = ASTSource(
        fn=kernel,
        signature={key: kinds.get(key, "i32") for key in names},
        constexprs={(names.index(key),): value for key, value in fixed.items()},
        attrs={(names.index(key),): [["tt.divisibility", 16]] for key in divisible},
    )
    target = GPUTarget("cuda", architecture, 32)
    warps = 1 if kernel is scales._measure else 4
    return triton.compile(source, target=target, options={"num_warps": warps, **options}).asm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", VARIANTS)
def test_compiles(name, architecture):
    """To machine code, with every operation rounded on its own."""
    code = compiled(name, architecture)
    assert code["cubin"]
    assert not re.search(FUSED, code["ptx"])
    assert ".ftz" not in code["ptx"]
    assert "div.full" not in code["ptx"]


def test_without_the_option_operations_are_fused():
    """Negative control of the test above."""
    assert re.search(FUSED, compiled("2bit decode", 90, options={})["ptx"])


@pytest.mark.parametrize("name", VARIANTS)
def test_any_dtype_and_shape_compiles(name):
    """Odd rows too, and one channel, which the compiler sees as a constant."""
    assert compiled(name, 80, torch.float32, aligned=False, EVEN=False)["cubin"]
    one = {"channels": "constexpr", "WIDTH": 8, "CHUNKS": 1}
    assert compiled(name, 80, torch.float16, aligned=False, EVEN=False, **one)["cubin"]


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith(("scale", "write"))])
def test_aligned_tensors_move_in_wide_loads(name):
    """16 bytes at once; not so where rows are not aligned."""
    wide = r"ld\.global\S*\.v4\.b32"
    assert re.search(wide, compiled(name, 90)["ptx"])
    assert not re.search(wide, compiled(name, 90, aligned=False, EVEN=False)["ptx"])
