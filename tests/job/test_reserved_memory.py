"""What a worker's ComfyUI believes that a run needs when it loads the models."""

from __future__ import annotations

import comfy.sampler_helpers
import pytest
from compact_parallel.runtime.comfy.wrappers.reserved_memory import ReservedMemory
from compact_parallel.runtime.planner.memory import NCCL_BYTES, MemoryNeed
from compact_parallel.runtime.pool.orders import Orders
from compact_parallel.runtime.report.ledger import Ledger
from sampling import model

SHAPE = (2, 16, 30, 14)


def orders(backend: str, world: int) -> Orders:
    return Orders(0, world, "cpu", backend, "", (), "", 60.0)


@pytest.mark.parametrize(("backend", "world", "library"), [("gloo", 2, 0), ("nccl", 1, 0), ("nccl", 2, NCCL_BYTES)])
def test_loading_goes_by_the_share_of_a_call_and_what_is_reserved(backend, world, library):
    patcher, ledger = model("flux"), Ledger()
    whole = comfy.sampler_helpers.estimate_memory(patcher, SHAPE, {})
    need = MemoryNeed(share=0.25, share_of_one=0.5, reserved=1000)
    loading = ReservedMemory(orders(backend, world), need, ledger)
    during = loading(comfy.sampler_helpers.estimate_memory, patcher, SHAPE, {})
    assert during == pytest.approx((0.25 * whole[0] + 1000 + library, 0.5 * whole[1] + 1000 + library))
    assert comfy.sampler_helpers.estimate_memory(patcher, SHAPE, {}) == whole
    assert ledger.to_json()["warnings"] == []
