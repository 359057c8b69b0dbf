"""The pack on a ComfyUI that was rewritten so that two families no longer fit: what test_unfit.py says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rewriting import IN_A_TUPLE, RENAMED, rewrite_folder


@pytest.fixture(scope="module")
def rewritten(conventions, tmp_path_factory):
    """The folder of such a ComfyUI."""
    folder = tmp_path_factory.mktemp("rewritten") / "ComfyUI"
    conventions.copy(Path(os.environ["COMFYUI_PATH"]), folder)
    rewrite_folder(folder, RENAMED, IN_A_TUPLE)
    return folder


@pytest.mark.skipif("COMFYUI_PATH" not in os.environ, reason="COMFYUI_PATH is not set")
@pytest.mark.timeout(600)
def test_what_no_longer_fits_is_refused_by_name_and_the_rest_works(rewritten, passed_on):
    assert passed_on(rewritten, "newer/test_unfit.py") > 0
