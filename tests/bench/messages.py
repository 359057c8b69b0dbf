"""What a message costs beside its arithmetic:  python3 tests/bench/messages.py

First the processor time that the wire itself takes.

One process, one thread, no link: K and V of a layer for two batch entries, of so few tokens that their arithmetic
hardly counts beside the calls. Microseconds of the fastest call over 20 layers:

- "pack": tensors to payload, at the sender,
- "expect": the receiver's handle, with the size of what is to come,
- "unpack": payload to tensors, at the receiver.

"without codec": the same with the tensors themselves in place of what a codec makes of them, so what is left is looking
up streams, sizes, headers and checksums.

Then, counted on a simulated card, how often the host waits for the card and how many kernels are launched, for the same
message and once per call, in "settle", for all its messages.
"""

from __future__ import annotations

import os
import time
from typing import Any
from unittest import mock

import bench

LAYERS, CALLS, REPEATS = 20, 12, 3
COUNTED = 4
"""The headers of the first two messages are read at once."""
WAYS = {
    "off": {"mode": "off"},
    "int8": {"mode": "codec", "codec": "int8"},
    "2bit": {"mode": "codec", "codec": "2bit"},
    "quality": {"mode": "quality", "max_relative_error": 0.2},
}
ON_A_CARD = {
    "ratio 6": {"mode": "ratio", "ratio": 6.0},
    "low_rank": {"mode": "codec", "codec": "low_rank"},
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


def counts(**config: object) -> list[str]:
    """Waits and launches of the last of some messages, on a simulated card: of pack, of unpack, and of settle."""
    import torch
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.compression.wire import Spec, Tag
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger
    from simulated_card import SimulatedCard

    sender, receiver = (make_wire(CompressionConfig(**config), Ledger(), CALLS) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    kv = torch.randn(2, 2, 4, 8, generator=generator)
    found: list[str] = []

    def counted(function: Any, *arguments: Any) -> Any:
        card.reset()
        result = function(*arguments)
        found.append(f"{card.waits.total()}, {card.launches.total()}")
        return result

    with SimulatedCard() as card, torch.inference_mode():
        for _ in range(COUNTED):
            found.clear()
            given = card.put([x + 0.1 * torch.randn(x.shape, generator=generator) for x in kv])
            spec = Spec.of(given, Tag("blocks.0.attn", "kv", (("cond", 0), ("cond", 1))))
            payload = counted(sender.pack, given, spec)
            counted(receiver.expect(1, spec).unpack, payload, [torch.empty_like(x) for x in given])
            counted(sender.settle)
            receiver.settle()
    return found


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"  # for the simulated card
    bench.begin(__file__)
    from compact_parallel.runtime.compression import quantise

    nothing = mock.patch.multiple(
        quantise,
        encode=lambda task: quantise.Coded(task.x_NC, True, 0, 0.0, 1.0, 0.1),
        decode=lambda task, used, k: task.out_NC,
    )
    rows = []
    for name, config in WAYS.items():
        figures = min((microseconds(**config) for _ in range(REPEATS)), key=sum)
        rows.append((name, *(f"{value:.0f}" for value in figures)))
    with nothing:
        for name in ("2bit", "quality"):
            figures = min((microseconds(**WAYS[name]) for _ in range(REPEATS)), key=sum)
            rows.append((f"{name}, without codec", *(f"{value:.0f}" for value in figures)))
    print(bench.table(("µs of the processor", "pack", "expect", "unpack"), rows))
    rows = [(name, *counts(**config)) for name, config in (WAYS | ON_A_CARD).items()]
    print("\n" + bench.table(("waits, launches on a card", "pack", "unpack", "settle"), rows))


if __name__ == "__main__":
    main()
