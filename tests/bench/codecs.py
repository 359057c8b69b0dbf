"""Speed and error of every codec:  python3 tests/bench/codecs.py [tokens channels]

Prints, per codec: bits per value, relative error ||d - d_hat|| / ||d|| on Gaussian data, on Laplace data and on data
with a few strong directions (64 singular values that fall as 1 / j, and a tenth of noise), and milliseconds to encode
and to decode one (tokens, channels) float32 tensor on one thread (the best of ten runs). Low-rank codecs have rank 16.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import bench


def best_ms(function: Callable[[], object], repeats: int = 10) -> float:
    """Wall milliseconds of the fastest of `repeats` runs, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds[1:])


def main() -> None:
    bench.begin(__file__)
    import torch
    from compact_parallel.runtime.compression.codecs import BY_NAME
    from residuals import gauss, laplace, low_rank, squared_error

    tokens, channels = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1088, 3072)
    data = [make(tokens, channels) for make in (gauss, laplace, low_rank)]
    print(f"({tokens}, {channels}) float32 = {tokens * channels / 1e6:.2f} M values\n")
    rows = []
    for name, codec in sorted(BY_NAME.items(), key=lambda item: -item[1].bits(tokens, channels)):
        payload = codec.encode(data[0])
        encode = best_ms(lambda codec=codec: codec.encode(data[0]))
        decode = best_ms(lambda codec=codec, p=payload: codec.decode(p, tokens, channels, torch.float32))
        errors = [f"{squared_error(codec, d) ** 0.5:.4f}" for d in data]
        times = [f"{ms:.1f}" for ms in (encode, decode, encode + decode)]
        rows.append((name, f"{codec.bits(tokens, channels):.3f}", *errors, *times))
    header = ("codec", "bits", "Gaussian", "Laplace", "few directions", "encode ms", "decode ms", "both ms")
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
