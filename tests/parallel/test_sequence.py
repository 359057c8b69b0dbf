"""The degrees' settings of attention reach the attention of a sharded model."""

from __future__ import annotations

import pytest
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.parallel.sequence import sequence_parallel
from compact_parallel.runtime.report.ledger import Ledger
from tiny_diffusion import cases, needs_comfyui

pytestmark = needs_comfyui


@pytest.mark.parametrize("nbytes", [1, 5000])
def test_head_chunks_and_exchange(nbytes):
    build, _ = cases()["flux"]
    axes = {"ulysses": Axis("ulysses", (0,), 0), "ring": Axis("ring", (0, 1), 0)}
    degrees = Degrees(ring=2, ring_exchange="ring", overlap=False, head_chunk_nbytes=nbytes)
    with sequence_parallel(build(), degrees, axes, RawWire(), Ledger()) as sharding:
        attention = sharding.attention
        assert (attention.head_chunk_nbytes, attention.overlap) == (nbytes, False)
        assert (attention.ring_exchange, attention.shards) == ("ring", 2)
