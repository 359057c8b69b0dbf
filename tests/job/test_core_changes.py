"""Packs that change ComfyUI itself, on pools of real workers: workers do as the parent does, or it is said."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import comfy.samplers
import pytest
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report

import nodes as stock

PACK = Path(__file__).resolve().parents[1] / "packs" / "core_patch"


@pytest.fixture
def pack():
    """The pack, loaded by ComfyUI's own loader. Afterwards ComfyUI is as it was, and so are the workers."""
    assert asyncio.run(stock.load_custom_node(str(PACK)))
    yield sys.modules[str(PACK)]
    sys.modules.pop(str(PACK)).restored()
    pool(2).stop()


def test_a_pack_that_changes_comfyui_when_it_is_imported_does_so_in_the_workers(pack):
    changed = ksampler(model("flux"), "flux")
    assert relative_error(ksampler(parallel(model("flux"), 2, ring_degree=2), "flux"), changed) < TOLERANCE
    assert report()["warnings"] == []
    pack.restored()
    plain = ksampler(model("flux"), "flux")
    assert relative_error(plain, changed) > 100 * TOLERANCE
    # What is known by now in the workers stays there, as it would in the parent without the line above.
    pool(2).stop()
    assert relative_error(ksampler(parallel(model("flux"), 2, ring_degree=2), "flux"), plain) < TOLERANCE


def test_what_a_node_changes_in_comfyui_when_it_runs_is_told(pack):
    patched = stock.NODE_CLASS_MAPPINGS["FixturePatchNow"]().patch(model("flux"))[0]
    assert comfy.samplers.calc_cond_batch is pack.calc_cond_batch
    ksampler(parallel(patched, 2, ring_degree=2), "flux")
    (warning,) = report()["warnings"]
    assert warning.startswith("The custom node pack core_patch has replaced comfy.samplers.calc_cond_batch of ComfyUI")
