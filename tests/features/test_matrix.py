"""Everything a workflow does to a model x every way to share the work: the stock result, or a sentence why not.

`COMFYUI_PATH=... python -m features.test_matrix` in this folder's parent prints the table that the help shows.
"""

from __future__ import annotations

if __name__ == "__main__":
    import conftest  # noqa: F401

import functools
import re
from pathlib import Path

import cloudpickle
import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.pool.errors import JobFailed
from features import patches
from features.scenes import FAMILIES, Scene, replace, scene
from sampling import parallel, relative_error, report

cloudpickle.register_pickle_by_value(patches)  # the workers cannot import it

# Of calls that were made ahead nothing is accepted. So the result is exact, if being asked out of turn, and again, does
# not disturb the feature.
NOTHING_PASSES = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=1, tolerance=1e-9)
WAYS = {
    "sequence": {"ring_degree": 2},
    "CFG": {"cfg_degree": 2},
    "step": {"step_degree": 2, "step_reuse": NOTHING_PASSES},
    "data": {"data_degree": 2},
}
TOLERANCE = 1e-4  # six steps of networks with random weights, which make the rounding of one grow

FEATURES = {(name, "flux"): feature for name, feature in (patches.COMMON | patches.TRANSFORMERS).items()}
FEATURES |= {(name, "sd"): feature for name, feature in (patches.COMMON | patches.UNETS).items()}
# What is common to all models is asked of the UNet under sequence parallelism only, which is its own.
CELLS = [
    (*key, way) for key in FEATURES for way in WAYS if key[1] == "flux" or way == "sequence" or key[0] in patches.UNETS
]

CACHE = r"Cache skips model calls .*use one of the two"
# What cannot be had, and the words of the sentence that says so.
REFUSED = {
    ("NAG", "flux", "CFG"): r"such as NAG, puts the conditions of a call together.*set cfg_degree to 1",
    ("EasyCache", "flux", "step"): CACHE,
    ("LazyCache", "flux", "step"): CACHE,
    ("APG", "flux", "step"): r"APG.* remembers what it has seen of this run.*unplug Step Reuse",
    ("SAG", "sd", "CFG"): "Self-Attention Guidance .*set cfg_degree to 1",
}
# Calls with these are evaluated whole by every group of data_degree: exact, but no faster.
WHOLE = "data_degree did nothing in"
WHOLE_CALLS = {
    (name, "flux")
    for name in (
        "NAG",
        "EasyCache",
        "Skip layer guidance (SLG)",
        "Attention patch (attn1)",
        "Reference attention (keys added)",
        "Function around the model",
        "Injection (motion modules)",
        "Object patch on a block",
    )
}
WHOLE_CALLS |= {
    (name, "sd")
    for name in patches.UNETS
    if name not in ("Inpaint model (further channels)", "ControlLora", "T2I adapter", "Attention multiply")
}
# A batch of these fails in ComfyUI itself.
NOT_IN_STOCK = {("Context windows", "flux", "data")}


@functools.cache
def stock(name: str, family: str, batch: int) -> tuple[Scene, torch.Tensor]:
    """The scene, and what one device makes of it."""
    torch.set_num_threads(1)
    made = FEATURES[name, family](family)
    if batch > 1:
        samples = made.latent["samples"]
        made = replace(made, latent=made.latent | {"samples": samples.repeat(batch, *(1 for _ in samples.shape[1:]))})
    return made, made.sample()


@functools.cache
def plain(family: str) -> torch.Tensor:
    return scene(family).sample()


@pytest.mark.parametrize(("name", "family", "way"), CELLS)
def test_a_feature_is_exact_or_refused(name, family, way):
    if (name, family, way) in NOT_IN_STOCK:
        with pytest.raises(IndexError):
            stock(name, family, 2)
        return
    made, expected = stock(name, family, 2 if way == "data" else 1)
    on_workers = functools.partial(parallel, world=2, **WAYS[way])
    if words := REFUSED.get((name, family, way)):
        with pytest.raises((Unsupported, JobFailed)) as caught:
            made.sample(on_workers)
        assert re.search(words, str(caught.value)) and "Traceback" not in str(caught.value)
        return
    assert relative_error(made.sample(on_workers), expected) < TOLERANCE
    if way == "data":
        whole = any(WHOLE in warning for warning in report()["warnings"])
        assert whole == ((name, family) in WHOLE_CALLS)


SAME_PICTURE = {"torch.compile", "Batch", "Context windows", "Inpaint model (further channels)"}


@pytest.mark.parametrize(("name", "family"), [key for key in FEATURES if key[0] not in SAME_PICTURE])
def test_a_feature_changes_the_picture(name, family):
    assert relative_error(stock(name, family, 1)[1], plain(family)) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["LoRA, two", "Inpainting (noise mask)", "Regional prompts over inpainting"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("svd", "sd_inpaint")])
def test_a_family_is_exact_with_what_people_do_most(family, name):
    made = patches.COMMON[name](family)
    expected = made.sample()
    assert relative_error(made.sample(functools.partial(parallel, world=2, ring_degree=2)), expected) < TOLERANCE
    assert relative_error(scene(family).sample(), expected) > 10 * TOLERANCE


@pytest.mark.parametrize("way", ["sequence", "CFG", "step"])
def test_a_video_whose_frames_are_the_batch_is_exact(way):
    film = scene("svd", batch=5)
    film = replace(film, positive=[[text[:, :1], about] for text, about in film.positive])
    film = replace(film, negative=[[torch.zeros_like(text), about] for text, about in film.positive])
    expected = film.sample()
    assert relative_error(film.sample(functools.partial(parallel, world=2, **WAYS[way])), expected) < TOLERANCE
    with pytest.raises(Unsupported, match=r"frames of one video.*set data_degree to 1"):
        film.sample(functools.partial(parallel, world=2, **WAYS["data"]))


def table() -> str:
    """The matrix as a Markdown table: one row per feature, one column per way."""
    lines = [["", *WAYS], ["---"] * (1 + len(WAYS))]
    for name in {name: None for name, _ in FEATURES}:
        family = "sd" if name in patches.UNETS else "flux"
        lines.append([name, *(_word(name, family, way) for way in WAYS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _word(name: str, family: str, way: str) -> str:
    if (name, family, way) in NOT_IN_STOCK:
        return "not in ComfyUI"
    if (name, family, way) in REFUSED:
        return "refused"
    return "exact*" if way == "data" and (name, family) in WHOLE_CALLS else "exact"


def test_the_help_shows_the_table():
    assert table() in (Path(__file__).resolve().parents[2] / "web/docs/CompactParallelStrategy.md").read_text()


if __name__ == "__main__":
    print(table())
