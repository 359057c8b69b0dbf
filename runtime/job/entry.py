"""What a worker calls first: ComfyUI reads its options when it is imported, so they are switched on before."""

from __future__ import annotations

import importlib
import sys

import comfy.options

from ..pool.worker import Handler, Orders


def sampling_handler(orders: Orders) -> Handler:
    """The handler that samples with ComfyUI, under the parent's command-line options (they are in sys.argv)."""
    if orders.device == "cpu" and "--cpu" not in sys.argv:
        sys.argv.append("--cpu")
    comfy.options.enable_args_parsing()
    return importlib.import_module(".worker", __package__).SamplingHandler(orders)
