"""The pack on a ComfyUI with the conventions of later versions: what is exact on 0.30 is exact there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Every token family, every UNet by rows, every ControlNet; a real pool; a pack that imports ComfyUI's server.
EXACT_THERE = (
    "sharding/test_families.py::test_split_equals_whole[2 ranks]",
    "sharding/test_controlnets.py::test_split_equals_whole_and_is_less_work[2 ranks]",
    "sharding/test_rows.py::test_split_equals_whole_and_every_exchange_is_needed[2]",
    "job/test_packs.py::test_closures_that_share_a_counter_and_options_kept_in_a_module[all_gather 2]",
    "newer/test_preferred.py",
    "newer/test_overrides.py",
)


@pytest.fixture(scope="module")
def newer(conventions, tmp_path_factory):
    """The folder of such a ComfyUI."""
    folder = tmp_path_factory.mktemp("newer") / "ComfyUI"
    conventions.make(Path(os.environ["COMFYUI_PATH"]), folder)
    return folder


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
@pytest.mark.timeout(900)
def test_what_is_exact_on_comfyui_0_30_is_exact_on_later_ones(newer, passed_on):
    assert passed_on(newer, *EXACT_THERE) >= len(EXACT_THERE)
