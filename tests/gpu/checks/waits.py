"""Counts how often the host waits for the card, by source line: in a message of each codec, in a model call by mode.

The agreement of the ranks waits once more per call; only the step of Step Reuse holds it.
Two processes on one card talk by gloo, which waits where it copies through the host (attention/axis.py): those waits
are counted apart. On the simulated card, and between two cards, they talk by NCCL.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu.checks.card import SIMULATED, own_card, the_card

CODECS = ("2bit", "int8", "low_rank", "top_k")
CALLS = 4
OFF = {"mode": "off"}
MODES: dict[str, tuple[str, tuple[int, int, str], dict[str, Any]]] = {
    "exact, all_gather": ("flux", (1, 2, "all_gather"), OFF),
    "exact, ring": ("flux", (1, 2, "ring"), OFF),
    "exact, ulysses": ("flux", (2, 1, "all_gather"), OFF),
    "exact, ring with a mask": ("flux, mask", (1, 2, "ring"), OFF),
    "displaced": ("flux", (1, 2, "displaced"), OFF),
    "2bit, all_gather": ("flux", (1, 2, "all_gather"), {"mode": "codec", "codec": "2bit", "warmup_calls": 1}),
    "2bit, ulysses": ("flux", (2, 1, "all_gather"), {"mode": "codec", "codec": "2bit", "warmup_calls": 1}),
    "ratio": ("flux", (1, 2, "all_gather"), {"mode": "ratio", "ratio": 8.0, "warmup_calls": 1}),
    "quality": ("flux", (1, 2, "all_gather"), {"mode": "quality", "max_relative_error": 0.05, "warmup_calls": 1}),
}
"""{mode: (case of the tiny models, (ulysses, ring, exchange), compression)}."""
STEPS = 20


def of_a_message(codec: str) -> dict[str, dict]:
    """Waits while packing and while unpacking the last of CALLS messages of K and V, and at the end of its call."""
    import torch
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.compression.wire import Spec, Tag
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger

    mode = OFF if codec == "off" else {"mode": "codec", "codec": codec, "warmup_calls": 1}
    sender, receiver = (make_wire(CompressionConfig(**mode), Ledger(), 20) for _ in range(2))
    tag = Tag("layer", "kv", (("cond", 0),))
    shape = (1, 16, 128) if SIMULATED else (1, 1152, 3072)
    x = [torch.randn(shape).bfloat16() for _ in range(2)]
    found = {}
    with the_card() as card, torch.inference_mode():
        x = card.put(x)
        out, spec = [torch.empty_like(x[0]) for _ in range(2)], Spec.of(x, tag)
        for _ in range(CALLS):
            held: list = []
            given = [y + 0.1 * torch.randn_like(y) for y in x]
            packing = card.waits_of(lambda given=given, held=held: held.append(sender.pack(given, spec)))
            unpacking = card.waits_of(lambda held=held: receiver.expect(0, spec).unpack(held[0], out))
            settling = card.waits_of(sender.settle)  # once per call, for all its messages
            receiver.settle()
            found = {"pack": dict(packing), "unpack": dict(unpacking), "settle": dict(settling)}
    return found


def of_calls(rank: int, world: int, folder: str) -> dict[str, dict[str, int]]:
    """{mode: waits by source line} of the last of CALLS calls, sharded over two ranks, and of a step of Step Reuse."""
    own_card(rank, world, folder)
    import torch
    from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger
    from compact_parallel.runtime.sharding.batch_entries import batch_slots
    from compact_parallel.runtime.sharding.plans import plan_for
    from compact_parallel.runtime.sharding.token_sharding import TokenSharding
    from evaluating import evaluate_split
    from sequence_parts import axes, batch_of
    from stepping import sample_in_groups
    from tiny_diffusion import cases

    by_degrees = {degrees: axes(rank, *degrees) for degrees in ((1, 2), (2, 1))}
    slots, every_case = batch_slots({"uuids": ["first", "second"]}, 2), cases()
    found: dict[str, dict[str, int]] = {}
    for mode, (case, (ulysses, ring, exchange), compression) in MODES.items():
        build, given = every_case[case]
        ledger, waits = Ledger(), Counter()
        wire = make_wire(CompressionConfig(**compression), ledger, CALLS)
        with the_card() as card, torch.inference_mode():
            module, given = card.put(build()), card.put(given)
            attention = SequenceAttention(*by_degrees[ulysses, ring], exchange, wire, ledger)
            sharding = TokenSharding(module, plan_for(module), attention)
            with attention:
                for call in range(CALLS):
                    ledger.begin_call(call, 0.0)

                    def one_call(sharding: Any = sharding, given: dict = given, wire: Any = wire) -> None:
                        evaluate_split(sharding, slots[: batch_of(given)], **given)
                        wire.settle()

                    waits = card.waits_of(one_call)
        found[mode] = dict(waits.most_common())
    with the_card() as card:
        waits = card.waits_of(lambda: sample_in_groups(by_degrees[1, 2][1], "euler", STEPS, card))
    found["Step Reuse, a step"] = {place: count / STEPS for place, count in waits.items()}
    return found


def run(tell: Callable) -> None:
    from distributed import launch

    messages = {codec: of_a_message(codec) for codec in ("off", *CODECS)}
    totals = {codec: {part: sum(places.values()) for part, places in of.items()} for codec, of in messages.items()}
    tell(waits_per_message=totals, places_of_a_message=messages["2bit"])
    with tempfile.TemporaryDirectory() as folder:
        found = launch(of_calls, 2, Path(folder), folder, timeout_s=200 if SIMULATED else 80)[0]
    staging = {mode: _sum(places, staged=True) for mode, places in found.items()}
    tell(
        waits_per_call={mode: _sum(places, staged=False) for mode, places in found.items()},
        staging_waits_per_call={mode: waits for mode, waits in staging.items() if waits},
        places=found,
    )


def _sum(places: dict[str, int], *, staged: bool) -> float:
    """The waits at these places: those where gloo copies through the host, or the others."""
    return round(sum(count for place, count in places.items() if ("attention/axis.py" in place) == staged), 2)
