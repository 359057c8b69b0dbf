"""Real workers on a ComfyUI in which Flux has another parameter and Wan fails in a hook (see test_rewritten.py)."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch
from comfy.ldm.flux.layers import DoubleStreamBlock
from comfyui_version import __version__
from compact_parallel.runtime.attention.unsupported import OTHER_DEGREES, Unsupported
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report

pytestmark = pytest.mark.skipif(
    "freqs" not in inspect.signature(DoubleStreamBlock.forward).parameters, reason="this ComfyUI was not rewritten"
)
ONE_DEVICE = {"on_unsupported": "run on one device"}
FLUX = (
    f"Flux cannot be split over ranks with the DoubleStreamBlock (double_blocks.0) of ComfyUI {__version__}, whose "
    "forward has no pe (but freqs)"
)
WAN = (
    f"Parallel Model's own code failed at blocks.0 (WanAttentionBlock) of WanModel with ComfyUI {__version__} "
    "(AttributeError: 'tuple' object has no attribute 'shape')"
)


def test_another_parameter_is_refused_before_anything_runs():
    starts = pool(2).starts
    for strategy in ({"ring_degree": 2}, {"ulysses_degree": 2}):
        with pytest.raises(Unsupported) as refusal:
            ksampler(parallel(model("flux"), 2, **strategy), "flux")
        assert str(refusal.value) == f"{FLUX}; {OTHER_DEGREES}"
    assert pool(2).starts == starts
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2, **ONE_DEVICE), "flux")
    assert torch.equal(samples, ksampler(model("flux"), "flux"))
    assert report()["fallbacks"] == [f"{FLUX}; {OTHER_DEGREES}"]


@pytest.mark.parametrize("strategy", [{"cfg_degree": 2}, {"data_degree": 2}, {}], ids=["cfg", "data", "auto"])
def test_the_other_degrees_work_and_auto_takes_them(strategy):
    given = {"batch": 2 if "data_degree" in strategy else 1}
    samples = ksampler(parallel(model("flux"), 2, **strategy), "flux", **given)
    assert relative_error(samples, ksampler(model("flux"), "flux", **given)) < TOLERANCE
    told = report()
    assert not told["fallbacks"]
    if not strategy:
        assert (told["strategy"]["cfg_degree"], told["strategy"]["ring_degree"]) == (2, 1)
        assert f"auto left ulysses_degree and ring_degree out: {FLUX}." in told["warnings"]


def test_auto_says_why_nothing_is_left_to_share():
    with pytest.raises(Unsupported) as refusal:
        ksampler(parallel(model("flux"), 2), "flux", cfg=1.0)
    assert str(refusal.value).startswith(f"{FLUX} and one condition per call, so there is nothing to share; set CFG")
    samples = ksampler(parallel(model("flux"), 2, **ONE_DEVICE), "flux", cfg=1.0)
    assert torch.equal(samples, ksampler(model("flux"), "flux", cfg=1.0))
    assert report()["fallbacks"] == [str(refusal.value)]


def test_a_hook_that_fails_is_refused_by_all_ranks_which_stay_warm(caplog):
    pool(2).start()
    starts, stock = pool(2).starts, ksampler(model("wan"), "wan")
    with caplog.at_level(logging.INFO), pytest.raises(JobFailed) as failure:
        ksampler(parallel(model("wan"), 2, ring_degree=2), "wan")
    assert str(failure.value) == f"{WAN}; {OTHER_DEGREES}"
    for rank in (0, 1):
        lines = [record.getMessage() for record in caplog.records if f"[parallel {rank}]" in record.getMessage()]
        assert any("Traceback" in line for line in lines) and any("actions/split.py" in line for line in lines)
    assert torch.equal(ksampler(parallel(model("wan"), 2, ring_degree=2, **ONE_DEVICE), "wan"), stock)
    assert report()["fallbacks"] == [f"{WAN}; {OTHER_DEGREES}"]
    assert relative_error(ksampler(parallel(model("wan"), 2, cfg_degree=2), "wan"), stock) < TOLERANCE
    assert pool(2).starts == starts and pool(2).state != "failed"


def test_a_model_that_was_not_rewritten_is_split():
    samples = ksampler(parallel(model("sd3"), 2, ring_degree=2), "sd3")
    assert relative_error(samples, ksampler(model("sd3"), "sd3")) < TOLERANCE
    assert report()["strategy"]["ring_degree"] == 2 and not report()["warnings"]
