"""Measures how long compression takes per value on the device of this process.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

import time

import torch

from ..compression.residual_wire import make_wire
from ..compression.wire import Spec, Tag, Wire
from ..config import CompressionConfig
from ..report.ledger import Ledger
from .compression import CANDIDATES

TYPICAL = {"cpu": ((1, 256, 512), torch.float32), "cuda": ((1, 2048, 3072), torch.bfloat16)}
"""(B, N, C) and dtype of a typical tensor on such a device. The fixed cost of a message is spread over these values: on
a GPU a small tensor would show little but that cost, on a CPU a large one takes long."""
CHANGE = 0.1
"""The random part of the tensor that is new at every call."""
CALLS = 10
"""Messages per codec. The first is the warm-up and the second is the first of its codec, so they are not timed."""
TAG = Tag("probe", "kv", (("probe", 0),))


def codec_seconds_per_value(device: torch.device) -> dict[str, float]:
    """Seconds to pack one value and unpack it at one receiver, for every codec that auto may choose.

    The whole stream is measured (prediction, residual, the sender's own decoding, checks), because the codec is only a
    third of it. The fastest message of each codec counts: disturbances only make messages slower. Takes about 0.1 s on
    one CPU core; no memory is kept.
    """
    fastest = _fastest(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    values = torch.Size(TYPICAL[device.type][0]).numel()
    return {name: seconds / values for name, seconds in fastest.items()}


def _fastest(device: torch.device) -> dict[str, float]:
    """Seconds of the fastest message by codec. Codecs take turns, so a busy moment affects all alike."""
    shape_BNC, dtype = TYPICAL[device.type]
    generator = torch.Generator(device).manual_seed(0)
    start_BNC = torch.randn(shape_BNC, generator=generator, device=device)
    received_BNC = torch.empty(shape_BNC, dtype=dtype, device=device)
    spec = Spec.of([received_BNC], TAG)
    wires = {name: _wires(name) for name in CANDIDATES}
    seconds: dict[str, list[float]] = {name: [] for name in CANDIDATES}
    with torch.inference_mode():
        for _ in range(CALLS):
            change_BNC = torch.randn(shape_BNC, generator=generator, device=device)
            x_BNC = (start_BNC + CHANGE * change_BNC).to(dtype)
            for name, (sender, receiver) in wires.items():
                _synchronize(device)
                started = time.perf_counter()
                receiver.expect(0, spec).unpack(sender.pack([x_BNC], spec), [received_BNC])
                _synchronize(device)
                seconds[name].append(time.perf_counter() - started)
    return {name: min(taken[2:]) for name, taken in seconds.items()}


def _wires(codec: str) -> tuple[Wire, Wire]:
    """The wires of a sender and a receiver."""
    config = CompressionConfig(mode="codec", codec=codec, warmup_calls=1)
    return make_wire(config, Ledger(), expected_calls=CALLS), make_wire(config, Ledger(), expected_calls=CALLS)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
