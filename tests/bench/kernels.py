"""Time of the fused kernels against the memory traffic they cannot avoid:  python3 tests/bench/kernels.py

Per model and rank, K and V (bfloat16, one base each) of one attention in one message: microseconds to encode, to decode
into the bases alone, and to decode into a slot of the attention as well; in brackets the ratio to the floor, which is
the time to copy as many bytes on this GPU. With b bits per value, scales included, the floor in bytes per value is:

    encode   14 + b / 8 (1 to 4 bits: fit and scales need passes of their own),  10 + b / 8 (int8, fp8)
    decode    4 + b / 8,  into a slot 6 + b / 8

Each figure is the mean over a CUDA graph of many separate messages, enough that none is found in a cache. "host" is the
processor time of one call. On a machine without CUDA the table says "not measured". Needs torch and
triton; if this Python lacks them, the environment of the tests is used.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bench

SHAPES = {
    "FLUX 1024 x 1024, 4 ranks": (1088, 3072),
    "FLUX, 4608 tokens, 4 ranks": (1152, 3072),
    "FLUX, 4608 tokens, 2 ranks": (2304, 3072),
    "Qwen-Image 1328 x 1328, 4 ranks": (1723, 3072),
    "Qwen-Image 1328 x 1328, 2 ranks": (3445, 3072),
    "Wan-14B 720p, 8 ranks": (9450, 5120),
    "Wan-14B 720p, 4 ranks": (18900, 5120),
}
"""(tokens, channels) of K and of V."""
CODECS = ("1bit", "2bit", "3bit", "4bit", "int8", "fp8")
TENSORS = 2
HEADER_NBYTES = 32
TEMPLATES = bytes(TENSORS * HEADER_NBYTES)
"""Headers of which nothing is known: their content does not change the time."""
CACHE = 512 << 20
"""The least number of bytes that a graph processes, ten times the cache of any GPU."""
HEADER = ("rank of", "values", "codec", "encode µs", "decode µs", "into a slot µs", "host encode µs", "host decode µs")


def begin() -> None:
    """Makes the pack importable."""
    if not (find_spec("torch") and find_spec("triton")):
        bench.begin(__file__)
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    importlib.import_module("conftest")


def floors(codec: Any, tokens: int, channels: int) -> tuple[float, float, float]:
    """The bytes that encoding, decoding and decoding into a slot must move for one message."""
    values, sent = TENSORS * tokens * channels, TENSORS * codec.nbytes(tokens, channels)
    encode = 10 if codec.name in ("int8", "fp8") else 14
    return encode * values + sent, 4 * values + sent, 6 * values + sent


class Messages:
    """Enough messages of K and V to fill CACHE, and functions that encode and decode them."""

    def __init__(self, codec: Any, tokens: int, channels: int, device: str) -> None:
        import torch

        self.codec = codec
        copies = 1 + CACHE // (6 * TENSORS * tokens * channels) if device == "cuda" else 1
        self.payload = codec.nbytes(tokens, channels)
        room = -(-self.payload // 16) * 16

        def tensors() -> list:
            shape = copies, TENSORS, tokens, channels
            return [list(x) for x in torch.randn(shape, device=device).bfloat16()]

        self.xs, self.bases, self.outs = tensors(), tensors(), tensors()
        buffer = torch.zeros(copies, TENSORS, room, dtype=torch.uint8, device=device)
        self.bodies = [list(x) for x in buffer]
        self.headers = list(torch.zeros(copies, TENSORS * HEADER_NBYTES, dtype=torch.uint8, device=device))

    def runs(self) -> tuple[Callable, Callable, Callable]:
        """Functions that encode all messages, decode all, and decode all into slots, with tables made beforehand."""
        from compact_parallel.runtime.compression.kernels import block_kernels, lloyd_max_kernels, ops
        from compact_parallel.runtime.compression.kernels.message import make_message

        codec, held = self.codec, (1, self.payload)
        bits = ops.BITS.get(codec.ident)
        encoding, decoding, filling = [], [], []
        for x, base, out, body, headers in zip(self.xs, self.bases, self.outs, self.bodies, self.headers):
            encoding.append(make_message(x, base, [], body, headers, *held, TEMPLATES))
            decoding.append(make_message([], base, [], body, headers, *held))
            filling.append(make_message(out, base, [], body, headers, *held))

        def encode() -> None:
            for message in encoding:
                if bits:
                    lloyd_max_kernels.encode(message, bits)
                else:
                    block_kernels.encode(message, codec.largest, codec.name == "fp8")

        def decode(messages: list) -> None:
            for message in messages:
                if bits:
                    lloyd_max_kernels.decode(message, bits)
                else:
                    block_kernels.decode(message, codec.name == "fp8")

        return encode, lambda: decode(decoding), lambda: decode(filling)

    def operators(self) -> tuple[Callable, Callable]:
        """Functions that encode and decode the first message as the wire does."""
        from compact_parallel.runtime.compression.kernels import ops

        kind = {"order": 1, "codec": self.codec.ident}
        x, base, out, body, headers = self.xs[0], self.bases[0], self.outs[0], self.bodies[0], self.headers[0]
        return (
            lambda: ops.encode(x, base, [], body, headers, TEMPLATES, **kind),
            lambda: ops.decode(body, base, [], out, headers, **kind),
        )


def graph_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Device seconds of the kernels that `run` launches: the fastest of `repeats` replays of its CUDA graph."""
    import torch

    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return min(seconds)


def host_seconds(run: Callable[[], object], repeats: int = 50) -> float:
    """Mean seconds until a call returns, over `repeats` calls."""
    import torch

    run()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds / repeats


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy of CACHE bytes."""
    import torch

    source, target = (torch.empty(CACHE, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * CACHE / graph_seconds(lambda: target.copy_(source))


def measure(codec: Any, tokens: int, channels: int, bandwidth: float) -> list[str]:
    """The measured cells of one row, which follow the codec's name."""
    messages = Messages(codec, tokens, channels, "cuda")
    count = len(messages.xs)
    cells = []
    for run, floor in zip(messages.runs(), floors(codec, tokens, channels)):
        seconds = graph_seconds(run) / count
        cells.append(f"{1e6 * seconds:.1f} ({seconds * bandwidth / floor:.2f})")
    return [*cells, *(f"{1e6 * host_seconds(run):.0f}" for run in messages.operators())]


def main() -> None:
    begin()
    import torch
    from compact_parallel.runtime.compression.codecs import BY_NAME

    measured = torch.cuda.is_available()
    if measured:
        bandwidth = copy_bandwidth()
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copies {bandwidth / 1e12:.2f} TB/s\n")
    else:
        print("No CUDA device here: not measured.\n")
    rows = []
    for model, (tokens, channels) in SHAPES.items():
        for name in CODECS:
            cells = ["not measured"] * 5
            if measured:
                cells = measure(BY_NAME[name], tokens, channels, bandwidth)
            rows.append((model, f"2 x {tokens} x {channels}", name, *cells))
    print(bench.table(HEADER, rows))


if __name__ == "__main__":
    main()
