"""Speed and error of every codec:  python tests/bench/codecs.py [tokens channels]

Prints, per codec: bits per value, relative error ||d - d_hat|| / ||d|| on Gaussian and on Laplace data, and
milliseconds to encode and to decode one (tokens, channels) float32 tensor on one thread (the best of ten runs).
"""

from __future__ import annotations

import platform
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def codecs() -> dict:
    """The registry, with the pack imported under a fixed name as in the tests."""
    package = types.ModuleType("compact_parallel")
    package.__path__ = [str(ROOT)]
    sys.modules.setdefault("compact_parallel", package)
    from compact_parallel.runtime.compression.codecs import BY_NAME

    return dict(BY_NAME)


def best_ms(function: Callable[[], object], repeats: int = 10) -> float:
    """Wall milliseconds of the fastest of `repeats` runs, after one that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds[1:])


def relative_error(codec: object, d: torch.Tensor) -> float:
    """||d - d_hat|| / ||d||."""
    d_hat = codec.decode(codec.encode(d), *d.shape, torch.float32)
    return float(torch.linalg.vector_norm(d - d_hat) / torch.linalg.vector_norm(d))


def processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    tokens, channels = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1088, 3072)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    gauss = torch.randn(tokens, channels)
    laplace = torch.distributions.Laplace(0.0, 1.0).sample((tokens, channels))
    print(f"{processor()}, 1 thread; torch {torch.__version__}, Python {platform.python_version()}")
    print(f"({tokens}, {channels}) float32 = {tokens * channels / 1e6:.2f} M values\n")
    print("| codec | bits | error, Gaussian | error, Laplace | encode ms | decode ms |\n|---|---|---|---|---|---|")
    for name, codec in sorted(codecs().items(), key=lambda item: -item[1].bits(tokens, channels)):
        payload = codec.encode(gauss)
        encode = best_ms(lambda codec=codec: codec.encode(gauss))
        decode = best_ms(lambda codec=codec, p=payload: codec.decode(p, tokens, channels, torch.float32))
        errors = f"{relative_error(codec, gauss):.4f} | {relative_error(codec, laplace):.4f}"
        print(f"| {name} | {codec.bits(tokens, channels):.3f} | {errors} | {encode:.1f} | {decode:.1f} |")


if __name__ == "__main__":
    main()
