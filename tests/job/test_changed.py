"""Code that a workflow puts into a model, on pools of real workers that split its tokens."""

from __future__ import annotations

import sys

import cloudpickle
import comfy_models
import controls
import pytest
from comfy.patcher_extension import PatcherInjection
from compact_parallel.runtime.pool.errors import JobFailed
from features import patches
from features.scenes import replace, scene
from sampling import TOLERANCE, ksampler, model, parallel, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import these files
cloudpickle.register_pickle_by_value(patches)


def nothing(patcher):
    """What an injection is that acts by functions no module holds."""


def test_a_changed_block_runs_whole_and_the_report_says_so():
    made = patches.COMMON["Object patch on a block"]("flux")
    expected = made.sample()
    for degrees in ({"ring_degree": 2}, {"ulysses_degree": 2}):
        samples = made.sample(lambda model, degrees=degrees: parallel(model, 2, **degrees))
        assert relative_error(samples, expected) < TOLERANCE
        (warning,) = report()["warnings"]
        assert warning.startswith("A workflow has put code of its own into double_blocks.0: every worker runs 1 of")
    plain = scene("flux")
    assert relative_error(plain.sample(), expected) > 10 * TOLERANCE
    assert relative_error(plain.sample(lambda model: parallel(model, 2, ring_degree=2)), plain.sample()) < TOLERANCE
    assert report()["warnings"] == []


def test_an_injection_that_no_module_shows_is_refused():
    injected = scene("flux").model.clone()
    injected.set_injections("motion", [PatcherInjection(inject=nothing, eject=nothing)])
    both = injected.clone()  # nor does it become visible by another change
    block = both.model.diffusion_model.double_blocks[0].forward
    both.add_object_patch("diffusion_model.double_blocks.0.forward", block)
    with pytest.raises(JobFailed, match=r"with an injection \(motion\) of which no module shows"):
        replace(scene("flux"), model=both).sample(lambda model: parallel(model, 2, ring_degree=2))
    with pytest.raises(
        JobFailed, match=r"with an injection \(motion\) of which no module shows what it does; set"
    ) as caught:
        replace(scene("flux"), model=injected).sample(lambda model: parallel(model, 2, ring_degree=2))
    assert "Traceback" not in str(caught.value)


def mixing_from(level):
    """A function around the model that puts another forward into a block, from a noise level on."""

    def around(apply_model, given):
        block = apply_model.__self__.diffusion_model.double_blocks[1]
        own = type(block).forward

        def forward(*args, **kwargs):
            img, txt = own(block, *args, **kwargs)
            return img + 0.3 * img.mean(1, keepdim=True), txt

        if float(given["timestep"].max()) <= level:
            block.forward = forward
        try:
            return apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            vars(block).pop("forward", None)

    return around


@pytest.mark.parametrize("level", (10.0, 0.9), ids=("from the first call", "from the second call"))
def test_code_that_comes_into_the_model_on_the_way_is_seen(level):
    patched = model("flux").clone()
    patched.set_model_unet_function_wrapper(mixing_from(level))
    expected = ksampler(patched, "flux")
    assert relative_error(ksampler(model("flux"), "flux"), expected) > 100 * TOLERANCE
    assert relative_error(ksampler(parallel(patched, 2, ring_degree=2), "flux"), expected) < TOLERANCE


def test_a_changed_block_is_given_all_residuals_of_a_controlnet_from_the_first_call_on():
    patched = model("flux").clone()
    block = patched.model.diffusion_model.double_blocks[1].forward

    def forward(*args, **kwargs):
        img, txt = block(*args, **kwargs)
        return img + 0.1 * img.mean(1, keepdim=True), txt

    patched.add_object_patch("diffusion_model.double_blocks.1.forward", forward)
    positive, negative = controls.steered((controls.flux_xlabs(3), 1.0, 0.0, 1.0))
    expected = ksampler(patched, "flux", positive=positive, negative=negative)
    assert relative_error(ksampler(patched, "flux", positive=comfy_models.conditioning(1)), expected) > 100 * TOLERANCE
    samples = ksampler(parallel(patched, 2, ring_degree=2), "flux", positive=positive, negative=negative)
    assert relative_error(samples, expected) < TOLERANCE
