"""BatchStep: Step Reuse on one worker, whose calls go through the model as a batch, against stock ComfyUI."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence

import sampling
import tiny_picture
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.report.metrics import psnr

SIZES = (128, 256, 512)
STEPS = 20
REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2)


def batches(seeds: Sequence[int]) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows: seconds of stock and of BatchStep in turns, the median, with all cores each."""
    rows = []
    torch.set_num_threads(os.cpu_count() or 1)  # as many as the one worker has
    for size in SIZES:
        stock, reused, likeness, rounds = [], [], [], []
        model = tiny_picture.model_for(size)
        _sample(model, 0, size)  # these two are not counted
        _parallel(model, 0, size)
        for seed in seeds:
            exact, seconds = _sample(model, seed, size)
            stock.append(seconds)
            picture = _parallel(model, seed, size)
            reused.append(sampling.report()["sampling_seconds"])
            likeness.append(min(120.0, psnr(picture, exact)))
            rounds.append(sampling.report()["rounds"])
        before, after = statistics.median(stock), statistics.median(reused)
        rows.append((size, f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}", rounds[0], f"{min(likeness):.1f}"))
    return ("pixels", "stock, s", "BatchStep, s", "times as fast", "rounds", "PSNR worst"), rows


def _parallel(model, seed: int, size: int):
    patcher = sampling.parallel(model, 1, step_reuse=REUSE)
    return tiny_picture.picture(tiny_picture.sample(patcher, seed, size=size, steps=STEPS))


def _sample(patcher, seed: int, size: int):
    clock = _Clock()
    clocked = patcher.clone()
    clocked.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "clock", clock)
    samples = tiny_picture.sample(clocked, seed, size=size, steps=STEPS)
    return tiny_picture.picture(samples), clock.seconds


class _Clock:
    """A SAMPLER_SAMPLE wrapper that measures what the workers measure: the sampler alone."""

    seconds = 0.0

    def __call__(self, executor, *args, **kwargs):
        started = time.perf_counter()
        result = executor(*args, **kwargs)
        self.seconds = time.perf_counter() - started
        return result
