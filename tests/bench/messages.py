"""Processor time that the wire itself takes per message:  python3 tests/bench/messages.py

One process, one thread, no link: K and V of a layer for two batch entries, of so few tokens that their arithmetic
hardly counts beside the calls. Microseconds of the fastest call over 20 layers:

- "pack": tensors to payload, at the sender,
- "expect": the receiver's handle, with the size of what is to come,
- "unpack": payload to tensors, at the receiver.

"without codec": the same with the tensors themselves in place of what a codec makes of them, so what is left is looking
up streams, sizes, headers and checksums.
"""

from __future__ import annotations

import time
from unittest import mock

import bench

LAYERS, CALLS, REPEATS = 20, 12, 3
WAYS = {
    "off": {"mode": "off"},
    "int8": {"mode": "codec", "codec": "int8"},
    "2bit": {"mode": "codec", "codec": "2bit"},
    "quality": {"mode": "quality", "max_relative_error": 0.2},
}


def microseconds(**config: object) -> list[float]:
    """Of the fastest call, for pack, expect and unpack of one message."""
    import torch
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.compression.wire import Spec, Tag
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger

    sender, receiver = (make_wire(CompressionConfig(**config), Ledger(), CALLS) for _ in range(2))
    kv = torch.randn(2, 2, 4, 8, generator=torch.Generator().manual_seed(1)).unbind()
    out = [torch.empty_like(x) for x in kv]
    slots = (("cond", 0), ("cond", 1))
    specs = [Spec.of(kv, Tag(f"blocks.{layer}.attn", "kv", slots)) for layer in range(LAYERS)]
    rows = []
    with torch.inference_mode():
        for _ in range(CALLS):
            spent = [0.0] * 3
            for spec in specs:
                times = [time.thread_time()]
                payload = sender.pack(kv, spec)
                times.append(time.thread_time())
                expected = receiver.expect(1, spec)
                times.append(time.thread_time())
                expected.unpack(payload, out)
                times.append(time.thread_time())
                spent = [total + end - start for total, start, end in zip(spent, times, times[1:])]
            rows.append([1e6 * seconds / LAYERS for seconds in spent])
    return min(rows[3:], key=sum)


def main() -> None:
    bench.begin(__file__)
    from compact_parallel.runtime.compression import residual_wire
    from compact_parallel.runtime.compression.quantise import Coded

    def uncoded(tasks: list) -> list[Coded]:
        return [Coded(task.x_NC, 0, 0.0, 1.0, 0.1) for task in tasks]

    nothing = mock.patch.multiple(
        residual_wire, encode_all=uncoded, decode_all=lambda tasks: [task.out_NC for task in tasks]
    )
    rows = []
    for name, config in WAYS.items():
        figures = min((microseconds(**config) for _ in range(REPEATS)), key=sum)
        rows.append((name, *(f"{value:.0f}" for value in figures)))
    with nothing:
        for name in ("2bit", "quality"):
            figures = min((microseconds(**WAYS[name]) for _ in range(REPEATS)), key=sum)
            rows.append((f"{name}, without codec", *(f"{value:.0f}" for value in figures)))
    print(bench.table(("compression", "pack", "expect", "unpack"), rows))


if __name__ == "__main__":
    main()
