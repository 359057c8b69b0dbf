"""Evaluates a tiny PixArt over ranks with a copy of this pack, which may have a plan for it; see test_readme.py.

Imports the pack only when called, so that it is the copy.
"""

from __future__ import annotations

import sys

import torch
from tiny_diffusion.pixart import pixart, pixart_inputs


@torch.inference_mode()
def outcome(rank, world, pack):
    """(file of the plan, relative error of the split model); ("", the refusal) where there is no plan."""
    sys.modules["compact_parallel"].__path__ = [str(pack)]
    from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
    from compact_parallel.runtime.attention.unsupported import Unsupported
    from compact_parallel.runtime.compression.wire import RawWire
    from compact_parallel.runtime.report.ledger import Ledger
    from compact_parallel.runtime.sharding import plans
    from compact_parallel.runtime.sharding.batch_entries import batch_slots
    from compact_parallel.runtime.sharding.parallelize import split_over_ranks
    from evaluating import split_error
    from sequence_parts import axes

    module = pixart()
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    try:
        sharding = split_over_ranks(module, attention)
    except Unsupported as refusal:
        return "", str(refusal)
    (file,) = [name for name in vars(plans) if getattr(getattr(plans, name), "PLAN", None) is sharding.plan]
    error = split_error(sharding, batch_slots({"uuids": ["first", "second"]}, 2), **pixart_inputs())
    return file, error
