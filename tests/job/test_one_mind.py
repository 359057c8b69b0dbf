"""Ranks that would take different paths: each test makes one rank differ and sees all end as the design says."""

from __future__ import annotations

import sys
import time

import cloudpickle
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.parallel.agreement import END_OF_RUN, CallHeader, Diverged, NotFinite, check
from compact_parallel.runtime.pool.errors import Cancelled, JobFailed
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error, sample_with

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def rank() -> int:
    """The worker this runs on."""
    return torch.distributed.get_rank()


def conditions_per_forward(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: the run fails unless both conditions are in one batch on rank 0 and on rank 1."""
    options = kwargs.get("transformer_options") or args[5]
    if len(options["uuids"]) != 1:
        raise AssertionError(f"{len(options['uuids'])} conditions in one forward")
    return executor(*args, **kwargs)


def scarce_memory_on_rank_1(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper, runs before the first call: rank 1 measures no free memory, rank 0 plenty."""
    wrappers = executor.class_obj.model_options["transformer_options"]["wrappers"]
    (agreement,) = wrappers[WrappersMP.PREDICT_NOISE]["compact_parallel"]
    agreement._memory._measured = lambda device: 0 if rank() == 1 else 1 << 40
    return executor(*args, **kwargs)


def test_ranks_batch_alike_with_different_free_memory():
    patched = parallel(model("flux"), 2, ring_degree=2)
    patched.add_wrapper(WrappersMP.OUTER_SAMPLE, scarce_memory_on_rank_1)
    patched.add_wrapper(WrappersMP.APPLY_MODEL, conditions_per_forward)  # the scarcest memory decides for all
    assert relative_error(ksampler(patched, "flux"), expected("flux", "euler")) < TOLERANCE


def test_with_memory_for_all_both_conditions_are_one_batch():
    patched = parallel(model("flux"), 2, ring_degree=2)
    patched.add_wrapper(WrappersMP.APPLY_MODEL, conditions_per_forward)
    with pytest.raises(JobFailed, match="2 conditions in one forward"):
        ksampler(patched, "flux")


def euler_with_rank_1(change):
    """A KSAMPLER that is Euler, with `change(x, step)` applied to rank 1's latent before each call."""

    def sample(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
        for step in range(len(sigmas) - 1):
            if rank() == 1:
                x = change(x, step)
            denoised = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
            x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
            if callback is not None:
                callback({"x": x, "i": step, "sigma": sigmas[step], "denoised": denoised})
        return x

    return comfy.samplers.KSAMPLER(sample)


def test_a_rank_that_is_off_by_an_ulp_takes_rank_0s_latent():
    exact = sample_with(parallel(model("flux"), 2, ring_degree=2), euler_with_rank_1(lambda x, step: x))
    ulp = euler_with_rank_1(lambda x, step: torch.nextafter(x, x + 1))
    assert torch.equal(sample_with(parallel(model("flux"), 2, ring_degree=2), ulp), exact)


def test_a_rank_that_is_far_off_takes_rank_0s_latent_too():
    exact = sample_with(parallel(model("flux"), 2, ring_degree=2), euler_with_rank_1(lambda x, step: x))
    far = euler_with_rank_1(lambda x, step: x + 1)
    assert torch.equal(sample_with(parallel(model("flux"), 2, ring_degree=2), far), exact)


def one_call_less_on_rank_1(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
    """A sampler that decides differently on rank 1."""
    for step in range(len(sigmas) - 1 - rank()):
        x = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
    return x


def test_a_rank_on_another_path_is_an_error_that_says_so():
    starts = pool(2).starts
    with pytest.raises(JobFailed, match=r"Worker 1 is at the end of the run while worker 0 is at call 3") as caught:
        sample_with(parallel(model("flux"), 2, ring_degree=2), comfy.samplers.KSAMPLER(one_call_less_on_rank_1))
    assert caught.value.kind == "Diverged"
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert pool(2).starts == starts  # all ranks raised it together, so the pool stayed


def raise_on_rank_1(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: a patch that fails on one rank only."""
    if rank() == 1:
        raise ZeroDivisionError("only here")
    return executor(*args, **kwargs)


def test_a_rank_that_raises_alone_ends_the_run_and_the_next_one_works():
    patched = parallel(model("flux"), 2, ring_degree=2)
    patched.add_wrapper(WrappersMP.APPLY_MODEL, raise_on_rank_1)
    started = time.monotonic()
    with pytest.raises(JobFailed, match="only here") as caught:
        ksampler(patched, "flux")
    assert time.monotonic() - started < 30
    assert "worker 1" in str(caught.value)
    assert "raise_on_rank_1" in str(caught.value)  # the traceback
    samples = ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
    assert relative_error(samples, expected("flux", "euler")) < TOLERANCE


def nan_on_rank_1(executor, *args, **kwargs):
    """CALC_COND_BATCH wrapper: rank 1's predictions are NaN."""
    outputs = executor(*args, **kwargs)
    return [output * float("nan") for output in outputs] if rank() == 1 else outputs


@pytest.mark.parametrize("strategy", ({"ring_degree": 2}, {"cfg_degree": 2}), ids=("sequence", "cfg"))
def test_nan_is_an_error_on_all_ranks_that_names_the_call(strategy):
    starts = pool(2).starts
    patched = parallel(model("flux"), 2, **strategy)
    patched.add_wrapper(WrappersMP.CALC_COND_BATCH, nan_on_rank_1)
    with pytest.raises(JobFailed, match="NaN or Inf at call 0") as caught:
        ksampler(patched, "flux")
    assert caught.value.kind == "NotFinite"
    ksampler(parallel(model("flux"), 2, **strategy), "flux")
    assert pool(2).starts == starts


HEADER = CallHeader(call=3, sigma=0.5, x_hash=1234, free_memory=1 << 40, cancelled=False, finite=True)


def test_a_header_survives_its_tensor():
    assert CallHeader.from_tensor(HEADER.to_tensor()) == HEADER


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"call": 4}, Diverged),
        ({"call": END_OF_RUN}, Diverged),
        ({"sigma": 0.51}, Diverged),
        ({"finite": False}, NotFinite),
        ({"sigma": 0.5000001}, None),
        ({"x_hash": 0}, None),
        ({"free_memory": 0}, None),
        ({"cancelled": True}, None),  # only rank 0 decides that
    ],
)
def test_what_ranks_may_differ_in(change, error):
    import dataclasses

    headers = [HEADER, dataclasses.replace(HEADER, **change)]
    if error is None:
        check(headers)
    else:
        with pytest.raises(error):
            check(headers)
    with pytest.raises(Cancelled):
        check([dataclasses.replace(HEADER, cancelled=True), HEADER])
