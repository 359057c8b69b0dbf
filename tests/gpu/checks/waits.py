"""Counts how often the host waits for the card, by source line, in a message of each codec and in a sharded call."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODECS = ("2bit", "int8", "low_rank", "top_k")


def counted(function: Callable[[], Any]) -> Counter:
    """{source line: synchronisations} while `function` runs."""
    import torch

    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = ((*Path(w.filename).parts[-2:], str(w.lineno)) for w in caught if "synchroniz" in str(w.message))
    return Counter("/".join(place[:-1]) + ":" + place[-1] for place in places)


def of_a_message(codec: str) -> dict[str, dict]:
    """Synchronisations while packing and while unpacking the fourth message of K and V."""
    import torch
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.compression.wire import Spec, Tag
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger

    mode = {"mode": "off"} if codec == "off" else {"mode": "codec", "codec": codec, "warmup_calls": 1}
    sender, receiver = (make_wire(CompressionConfig(**mode), Ledger(), 20) for _ in range(2))
    tag = Tag("layer", "kv", (("cond", 0),))
    x = [torch.randn(1, 1152, 3072, device="cuda").bfloat16() for _ in range(2)]
    out, spec = [torch.empty_like(x[0]) for _ in range(2)], Spec.of(x, tag)
    found = {}
    with torch.inference_mode():
        for _ in range(4):
            held: list = []
            given = [y + 0.1 * torch.randn_like(y) for y in x]
            packing = counted(lambda given=given, held=held: held.append(sender.pack(given, spec)))
            unpacking = counted(lambda held=held: receiver.expect(0, spec).unpack(held[0], out))
            found = {"pack": dict(packing), "unpack": dict(unpacking)}
    return found


def of_a_call(rank: int, world: int, codec: str) -> dict[str, int]:
    """Synchronisations in the fourth call of a tiny Flux, sharded over two ranks with gloo."""
    import torch
    from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger
    from compact_parallel.runtime.sharding.batch_entries import batch_slots
    from compact_parallel.runtime.sharding.plans import plan_for
    from compact_parallel.runtime.sharding.token_sharding import TokenSharding
    from evaluating import evaluate_split
    from sequence_parts import axes
    from tiny_diffusion import cases

    build, given = cases()["flux"]
    module = build()
    ledger = Ledger()
    mode = {"mode": "off"} if codec == "off" else {"mode": "codec", "codec": codec, "warmup_calls": 1}
    wire = make_wire(CompressionConfig(**mode), ledger, 20)
    sharding = TokenSharding(module, plan_for(module), SequenceAttention(*axes(rank, 1, 2), "all_gather", wire, ledger))
    slots = batch_slots({"uuids": ["first", "second"]}, 2)
    found: Counter = Counter()
    with torch.inference_mode():
        for call in range(4):
            ledger.begin_call(call, 0.0)
            found = counted(lambda: evaluate_split(sharding, slots, **given))
    return dict(found.most_common())


def run(tell: Callable) -> None:
    from distributed import launch

    messages = {codec: of_a_message(codec) for codec in ("off", *CODECS)}
    totals = {codec: {part: sum(places.values()) for part, places in of.items()} for codec, of in messages.items()}
    tell(waits_per_message=totals, places_2bit=messages["2bit"], places_off=messages["off"])
    for codec in ("off", "2bit"):
        with tempfile.TemporaryDirectory() as folder:
            found = launch(of_a_call, 2, Path(folder), codec, timeout_s=50)[0]
        tell(**{f"waits_per_call_{codec}": sum(found.values()), f"places_per_call_{codec}": found})
