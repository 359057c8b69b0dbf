"""Files and folders that people and systems remove while ComfyUI lives: with real sampling jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

import comfy_models
import pytest
import torch
from compact_parallel.runtime.comfy.shipping.pickling import ShippingError
from sampling import TOLERANCE, expected, ksampler, model, model_path, parallel, pool, relative_error, report


def test_a_folder_that_is_removed_between_two_arrangements():
    """CFG 1, then CFG above 1: the second makes process groups, for which the workers have to find each other again."""
    ksampler(parallel(model("flux"), 4), "flux", cfg=1.0)
    starts = pool(4).starts
    shutil.rmtree(pool(4).store.directory)
    samples = ksampler(parallel(model("flux"), 4), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE
    assert report()["strategy"]["cfg_degree"] == 2
    assert pool(4).starts == starts + 1
    (warning,) = report()["warnings"]
    assert "was removed or changed from outside. The pool was started anew." in warning


def remove_them(directory: Path) -> None:
    for path in directory.glob("*.safetensors"):
        path.unlink()


def cut_them_short(directory: Path) -> None:
    """By another file in its place: what the workers have mapped stays as it is."""
    for path in directory.glob("*.safetensors"):
        short = path.with_suffix(".short")
        short.write_bytes(path.read_bytes()[:-100])
        short.replace(path)


def remove_the_listing(directory: Path) -> None:
    (directory / "models.json").unlink()


def break_the_listing(directory: Path) -> None:
    (directory / "models.json").write_text('[["')


@pytest.mark.parametrize("damage", [remove_them, cut_them_short, remove_the_listing, break_the_listing, shutil.rmtree])
def test_files_that_a_cleaner_takes_are_written_again(damage):
    """Of a model that travels itself, and of latents that are too large for the job and the same in both runs."""

    def run():
        patcher = model("flux").clone()
        patcher.cached_patcher_init = None
        return ksampler(parallel(patcher, 2, ring_degree=2), "flux", batch=3)

    first = run()
    assert relative_error(first, ksampler(model("flux"), "flux", batch=3)) < TOLERANCE
    starts, directory = pool(2).starts, pool(2).store.directory
    assert len(list(directory.glob("*.safetensors"))) > 3
    damage(directory)
    assert torch.equal(run(), first)
    assert pool(2).starts == starts + (damage is shutil.rmtree)


def test_a_model_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "gone.safetensors"
    shutil.copy(model_path("flux"), path)
    loaded = comfy_models.load(str(path))
    kept = path.rename(tmp_path / "kept")
    with pytest.raises(ShippingError, match=rf"^{path}, the file of Flux .*, was removed since it was loaded"):
        ksampler(parallel(loaded, 2, ring_degree=2), "flux")
    samples = ksampler(parallel(loaded, 2, on_unsupported="run on one device", ring_degree=2), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE  # one of the ways out,
    kept.rename(path)
    samples = ksampler(parallel(loaded, 2, ring_degree=2), "flux")  # and the other
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE
    assert report()["fallbacks"] == []
