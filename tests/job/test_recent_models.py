"""The latest families, sampled by pools of real workers that split their tokens: as in stock."""

from __future__ import annotations

import functools
import re

import pytest
import recent_scenes
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from sampling import TOLERANCE, parallel, relative_error, report

# That no guess was accepted, with "step 2", is what was asked for.
UNSHARED = re.compile("did nothing(?! in this run: no guess)").search
WAYS = {"all_gather 2": (2, {"ring_degree": 2}), "cfg 2": (2, {"cfg_degree": 2})}
CELLS = [(family, way) for family in recent_scenes.MODELS for way in WAYS]


def _parts(samples: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Picture and sound, or the one that there is."""
    return samples.unbind() if samples.is_nested else (samples,)


@functools.cache
def stock(family: str) -> tuple[recent_scenes.Scene, tuple[torch.Tensor, ...]]:
    """The scene, and what one device makes of it."""
    torch.set_num_threads(1)
    made = recent_scenes.scene(family)
    return made, _parts(made.sample())


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    for made in (stock, recent_scenes.model):
        made.cache_clear()


@pytest.mark.parametrize(("family", "way"), [cell for cell in CELLS if cell != ("seedvr2", "cfg 2")])
def test_samples_are_those_of_stock(family, way):
    world, strategy = WAYS[way]
    made, expected = stock(family)
    samples = _parts(made.sample(functools.partial(parallel, world=world, **strategy)))
    assert all(x.isfinite().all() and x.std() > 0 for x in expected)
    assert max(map(relative_error, samples, expected)) < TOLERANCE
    assert report()["workers"] == world and not any(map(UNSHARED, report()["warnings"]))


@pytest.mark.parametrize("degree", ["cfg_degree", "data_degree"])
def test_entries_of_a_batch_that_see_each_other_stay_together(degree):
    """SeedVR2 3B, whose first film of a batch depends on the others."""
    made = recent_scenes.scene("seedvr2")
    batch = recent_scenes.replace(made, latent={"samples": made.latent["samples"].repeat(2, 1, 1, 1, 1)})
    with pytest.raises(Unsupported, match=f"see each other's text, which {degree} takes apart; set it to 1 and use"):
        batch.sample(functools.partial(parallel, world=2, **{degree: 2}))


def test_auto_goes_by_the_heads_of_all_attention_that_is_split():
    """PixelDiT's two kinds of blocks have 6 and 4 heads: three workers cannot share them, but the tokens."""
    made, expected = stock("pixeldit")
    samples = made.sample(functools.partial(parallel, world=3))
    assert relative_error(samples, *expected) < TOLERANCE
    strategy = report()["strategy"]
    assert (strategy["ulysses_degree"], strategy["ring_degree"]) == (1, 3)
