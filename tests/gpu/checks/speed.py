"""Measures the compression kernels: tests/bench/kernels.py on three of its shapes."""

from __future__ import annotations

from collections.abc import Callable

SHAPES = ("FLUX, 4608 tokens, 4 ranks", "FLUX, 4608 tokens, 2 ranks", "Wan-14B 720p, 8 ranks")


def run(tell: Callable) -> None:
    import kernels as bench
    from compact_parallel.runtime.compression.codecs import BY_NAME

    bandwidth = bench.copy_bandwidth()
    rows = []
    for model in SHAPES:
        for name in bench.CODECS:
            rows.append((model, name, *bench.measure(BY_NAME[name], *bench.SHAPES[model], bandwidth)))
            tell(header=bench.HEADER, rows=rows)
