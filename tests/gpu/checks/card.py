"""The card that a check uses: a real one, or the simulated one of tests/support where check.py was asked for it."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

SIMULATED = os.environ.get("COMPACT_PARALLEL_SIMULATED") == "1"
if SIMULATED:
    sys.modules["triton"] = None  # its kernels need a real card; the PyTorch codecs run in their place


class Card(Protocol):
    """Puts tensors on a card, and counts how often the host waits for it."""

    def put(self, value: Any) -> Any:
        """Modules, and tensors in nested lists and dicts, on the card."""

    def take(self, value: Any) -> Any:
        """A tensor on the host."""

    def waits_of(self, function: Callable[[], Any]) -> Counter[str]:
        """{source line: waits} while `function` runs."""

    def operations_of(self, function: Callable[[], Any]) -> list[str]:
        """The names of torch's operations that `function` runs, without those inside of others."""


class RealCard:
    """The device that check.py was given."""

    def put(self, value: Any) -> Any:
        import torch
        from device import DEVICE

        if isinstance(value, torch.Tensor | torch.nn.Module):
            return value.to(DEVICE)
        if isinstance(value, dict):
            return type(value)((name, self.put(part)) for name, part in value.items())
        return type(value)(self.put(part) for part in value) if isinstance(value, list | tuple) else value

    def take(self, value: Any) -> Any:
        return value.cpu()

    def waits_of(self, function: Callable[[], Any]) -> Counter[str]:
        import torch

        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                function()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = ((*Path(w.filename).parts[-3:], str(w.lineno)) for w in caught if "synchroniz" in str(w.message))
        return Counter("/".join(place[:-1]) + ":" + place[-1] for place in places)

    def operations_of(self, function: Callable[[], Any]) -> list[str]:
        import torch

        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            function()
        return [event.key.removeprefix("aten::") for event in profile.key_averages()]


class PretendedCard:
    """A SimulatedCard."""

    def __init__(self, simulated: Any) -> None:
        self.put, self.take, self._simulated = simulated.put, simulated.take, simulated

    def waits_of(self, function: Callable[[], Any]) -> Counter[str]:
        self._simulated.reset()
        function()
        counted: Counter[str] = Counter()
        for (_, place), waits in self._simulated.waits.items():
            counted[place] += waits
        return counted

    def operations_of(self, function: Callable[[], Any]) -> list[str]:
        self._simulated.reset()
        function()
        return [name for name, _ in self._simulated.launches]


@contextmanager
def the_card() -> Iterator[Card]:
    """The card of this run of check.py."""
    if not SIMULATED:
        yield RealCard()
        return
    from simulated_card import SimulatedCard

    with SimulatedCard() as simulated:
        yield PretendedCard(simulated)


def own_card(rank: int, world: int, folder: str) -> None:
    """Where check.py has several cards, gives this rank one of its own, and joins the ranks by NCCL.

    To be called before the rank uses CUDA.
    """
    from device import CARDS

    if CARDS == 1:
        return
    import torch.distributed as dist

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[rank] if len(visible) > rank else str(rank)
    dist.destroy_process_group()
    store = dist.FileStore(str(Path(folder) / "nccl"), world)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
