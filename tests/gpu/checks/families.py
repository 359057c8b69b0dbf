"""Compares an evaluation of every family's tiny model, sharded over two processes on the card, with the whole one.

On the simulated card only the first case of each family is evaluated, and they take the ways in turn.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from gpu.checks.card import SIMULATED, own_card, the_card

WAYS = ((1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather"))


def errors(rank: int, world: int, folder: str) -> dict[str, object]:
    """{case: the largest relative error over WAYS, or the error that was raised}."""
    own_card(rank, world, folder)
    import torch
    from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
    from compact_parallel.runtime.compression.wire import RawWire
    from compact_parallel.runtime.report.ledger import Ledger
    from compact_parallel.runtime.report.metrics import difference
    from compact_parallel.runtime.sharding.batch_entries import batch_slots
    from compact_parallel.runtime.sharding.plans import plan_for
    from compact_parallel.runtime.sharding.token_sharding import TokenSharding
    from evaluating import evaluate_split, evaluate_whole
    from sequence_parts import axes, batch_of
    from tiny_diffusion import cases

    by_degrees = {way[:2]: axes(rank, *way[:2]) for way in WAYS}
    slots = batch_slots({"uuids": ["first", "second"]}, 2)
    found: dict[str, object] = {}
    chosen = {name: case for name, case in cases().items() if not SIMULATED or "," not in name}
    for number, (name, (build, given)) in enumerate(chosen.items()):
        try:
            module, worst = build(), 0.0
            with torch.inference_mode():
                attentions = [
                    SequenceAttention(*by_degrees[way[:2]], way[2], RawWire(), Ledger())
                    for way in ([WAYS[number % len(WAYS)]] if SIMULATED else WAYS)
                ]
                whole = evaluate_whole(TokenSharding(module, plan_for(module), attentions[0]), **given)
                with the_card() as card:
                    module, on_card = card.put(module), card.put(given)
                    for attention in attentions:
                        sharding = TokenSharding(module, plan_for(module), attention)
                        split = evaluate_split(sharding, slots[: batch_of(given)], **on_card)
                        worst = max(worst, difference(card.take(split), card.take(whole)))
            found[name] = worst
        except Exception as error:  # go on with the next family; both ranks raise the same error
            last = traceback.extract_tb(error.__traceback__)[-1]
            found[name] = f"{type(error).__name__} at {last.filename}:{last.lineno}: {error}"[:300]
        print(name, found[name], flush=True)
    return found


def run(tell: Callable) -> None:
    from distributed import launch

    with tempfile.TemporaryDirectory() as folder:
        found = launch(errors, 2, Path(folder), folder, timeout_s=140)[0]
    numbers = {name: error for name, error in found.items() if isinstance(error, float)}
    tell(
        cases=len(found),
        within_1e_4=sum(error < 1e-4 for error in numbers.values()),
        largest=sorted(numbers.items(), key=lambda case: -case[1])[:5],
        raised={name: error for name, error in found.items() if name not in numbers},
    )
