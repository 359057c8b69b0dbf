"""A worker on a simulated card, and the launcher that starts it so: the card's memory is shared between processes."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...runtime.comfy.run.worker_entry import sampling_handler
from ...runtime.planner import codec_speed
from ...runtime.pool.launcher import Deliver
from ...runtime.pool.local.subprocess_launcher import LocalLauncher
from ...runtime.pool.orders import Orders
from ...runtime.pool.worker import JobHandler

sys.path.insert(0, str(Path(__file__).parent))  # in a worker, which knows the pack alone

from card_shared_memory import SharedMemory
from simulated_card import SimulatedCard

HANDLER = "tests.support.card_memory:on_a_card"


class CardLauncher(LocalLauncher):
    """Starts workers that take a simulated card of `limit` bytes for their device. What each process holds of card
    `index` is in the file `index` of `folder`; ComfyUI itself is process 0, rank r is process r + 1."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def open(self, devices: tuple[str, ...]) -> Any:
        for path in self._folder.iterdir():  # what the workers before held went with them
            SharedMemory(path).forget_others(0)
        site = super().open(("cpu",) * len(devices))
        start = site.start

        def start_on_a_card(orders: Orders, deliver: Deliver) -> Any:
            index = int(orders.device.partition(":")[2])
            options = {"card": [self._limit, index, str(self._folder / str(index))]}
            return start(replace(orders, device="cpu", options=options), deliver)

        site.start = start_on_a_card
        return site


def on_a_card(orders: Orders) -> JobHandler:
    """In the worker: the handler, on the card. ComfyUI is imported as for the CPU, for there is no other device."""
    sys.modules["triton"] = None  # it has no kernels for this card
    codec_speed.TYPICAL["cuda"] = codec_speed.TYPICAL["cpu"]  # the card is as small as its models
    limit, index, path = orders.options["card"]
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("comfy.cli_args").args.cpu = True
    importlib.import_module("comfy.model_management")
    SimulatedCard(limit, index, SharedMemory(Path(path)), orders.rank + 1).__enter__()
    return sampling_handler(orders)
