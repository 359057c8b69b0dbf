"""Speed and error of every codec:  python3 tests/bench/codecs.py [tokens channels]

Prints, per codec: bits per value, relative error ||d - d_hat|| / ||d|| on Gaussian and on Laplace data, and
milliseconds to encode and to decode one (tokens, channels) float32 tensor on one thread (the best of ten runs).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import bench


def best_ms(function: Callable[[], object], repeats: int = 10) -> float:
    """Wall milliseconds of the fastest of `repeats` runs, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds[1:])


def relative_error(codec: Any, d: Any) -> float:
    """||d - d_hat|| / ||d||."""
    d_hat = codec.decode(codec.encode(d), *d.shape, d.dtype)
    return float((d - d_hat).norm() / d.norm())


def main() -> None:
    bench.begin(__file__)
    import torch
    from compact_parallel.runtime.compression.codecs import BY_NAME

    tokens, channels = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1088, 3072)
    torch.manual_seed(0)
    gauss = torch.randn(tokens, channels)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((tokens, channels))
    print(f"({tokens}, {channels}) float32 = {tokens * channels / 1e6:.2f} M values\n")
    rows = []
    for name, codec in sorted(BY_NAME.items(), key=lambda item: -item[1].bits(tokens, channels)):
        payload = codec.encode(gauss)
        encode = best_ms(lambda codec=codec: codec.encode(gauss))
        decode = best_ms(lambda codec=codec, p=payload: codec.decode(p, tokens, channels, torch.float32))
        errors = [f"{relative_error(codec, d):.4f}" for d in (gauss, laplace)]
        rows.append((name, f"{codec.bits(tokens, channels):.3f}", *errors, f"{encode:.1f}", f"{decode:.1f}"))
    header = ("codec", "bits", "error, Gaussian", "error, Laplace", "encode ms", "decode ms")
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
