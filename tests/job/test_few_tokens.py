"""Fewer tokens or rows than workers, and what nobody can split, on pools of real workers: what stock finishes, auto
finishes, and alike."""

from __future__ import annotations

import re
import sys

import cloudpickle
import comfy_models
import controls
import pytest
import torch
from comfy.patcher_extension import PatcherInjection
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file

TWO_BITS = CompressionConfig(mode="codec", codec="2bit")
# (family, tokens of the prompt and of the negative one, latent, CFG, workers, strategy); {} is auto.
CASES = {
    "flux, auto, one token": ("flux", 1, 1, (30, 14), 1.0, 2, {}),
    "flux, ulysses, small picture": ("flux", 7, 7, (2, 2), 1.0, 2, {"ulysses_degree": 2}),
    "flux, ring, prompts of different lengths": (
        "flux", 1, 3, (30, 14), 3.0, 3, {"ring_degree": 3, "ring_exchange": "ring"},
    ),
    "sd3, auto, picture of one token": ("sd3", 3, 1, (2, 2), 3.0, 3, {}),
    "sd3, auto, little of both": ("sd3", 1, 1, (2, 2), 1.0, 3, {}),
    "sd3, displaced": ("sd3", 1, 1, (2, 4), 1.0, 3, {"ring_degree": 3, "ring_exchange": "displaced"}),
}  # fmt: skip


def conditions(positive, negative):
    return {"positive": comfy_models.conditioning(1, positive), "negative": comfy_models.conditioning(2, negative)}


@pytest.mark.parametrize("case", CASES)
def test_few_tokens_are_sampled_as_in_stock(case):
    family, positive, negative, size, cfg, world, strategy = CASES[case]
    latent = {"samples": torch.zeros(1, 16, *size)}
    given = {"cfg": cfg, "latent": latent, "steps": 3, **conditions(positive, negative)}
    expected = ksampler(model(family), family, **given)
    error = relative_error(ksampler(parallel(model(family), world, **strategy), family, **given), expected)
    assert error < (0.05 if "displaced" in case else TOLERANCE)
    assert report()["workers"] == world
    assert report()["warnings"] == []
    other = ksampler(model(family), family, **given | {"positive": comfy_models.conditioning(3, positive)})
    assert relative_error(other, expected) > 100 * TOLERANCE


def test_few_tokens_are_compressed():
    given = {"cfg": 1.0, "steps": 6, **conditions(1, 1)}
    expected = ksampler(model("flux"), "flux", **given)
    samples = ksampler(parallel(model("flux"), 3, TWO_BITS, ring_degree=3), "flux", **given)
    assert TOLERANCE < relative_error(samples, expected) < 0.1
    assert report()["effective_ratio"] > 1.5


def another_patch(patcher):
    """Where this kind of patch would look nobody knows."""
    patcher.set_model_patch(lambda q, k, v, **_: {"q": q, "k": k, "v": v}, "another_patch")


def nothing(patcher):
    """What an injection is that acts by functions no module holds."""


def injection(patcher):
    patcher.set_injections("motion", [PatcherInjection(inject=nothing, eject=nothing)])


def one_at_a_time(patcher):
    """Evaluates the entries of the batch one after the other."""

    def around(apply_model, given):
        outputs = []
        for i, (x, t) in enumerate(zip(given["input"].split(1), given["timestep"].split(1))):
            own = {key: value[i : i + 1] for key, value in given["c"].items() if isinstance(value, torch.Tensor)}
            if residuals := given["c"].get("control"):
                cut = {place: [each[i : i + 1] for each in many] for place, many in residuals.items()}
                own["control"] = cut
            outputs.append(apply_model(x, t, **given["c"] | own))
        return torch.cat(outputs)

    patcher.set_model_unet_function_wrapper(around)


NOBODY_CAN_SPLIT = {
    "guard": (another_patch, "a patch of the kind another_patch"),
    "injection": (injection, r"an injection \(motion\) of which no module shows"),
    "batch": (one_at_a_time, "evaluates 1 of the batch entries of 2 conditions"),
}


@pytest.mark.parametrize("what", NOBODY_CAN_SPLIT)
def test_auto_runs_whole_what_nobody_can_split(what):
    """With a ControlNet, whose residuals must then be whole, too."""
    put, reason = NOBODY_CAN_SPLIT[what]
    patched = model("flux").clone()
    put(patched)
    positive, negative = controls.steered((controls.flux_xlabs(3), 1.0, 0.0, 1.0))
    given = {"steps": 3, "positive": positive, "negative": negative}
    expected = ksampler(patched, "flux", **given)
    samples = ksampler(parallel(patched, 3), "flux", **given)  # an odd number of workers shares no conditions
    assert relative_error(samples, expected) < TOLERANCE
    why, whole = sorted(report()["warnings"], key=lambda warning: "did nothing" in warning)
    assert re.search(f"{reason}.*: every worker ran some calls of the model whole", why)
    assert "ring_degree did nothing in this run" in whole
    with pytest.raises(JobFailed, match=f"{reason}.*; set on_unsupported of Parallel Model to"):
        ksampler(parallel(patched, 3, ring_degree=3), "flux", **given)
    plain = {"steps": 3, "positive": comfy_models.conditioning(1), "negative": comfy_models.conditioning(2)}
    assert relative_error(ksampler(patched, "flux", **plain), expected) > 100 * TOLERANCE
