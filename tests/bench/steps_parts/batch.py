"""Measures BatchStep (Step Reuse on one worker, with the calls of a round as one batch) against stock ComfyUI."""

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
    """Header and rows: median seconds of stock and of BatchStep, with all cores each, and the median speedup over pairs
    of runs. The two runs of a pair follow each other directly, in alternating order."""
    rows = []
    torch.set_num_threads(os.cpu_count() or 1)  # as many threads as the one worker has
    for size in SIZES:
        stock, reused, likeness, rounds = [], [], [], []
        model = tiny_picture.model_for(size)
        _sample(model, 0, size)  # warm-up, as the next line
        _parallel(model, 0, size)
        for turn, seed in enumerate(seeds):
            for reuse in (turn % 2 == 1, turn % 2 == 0):
                if reuse:
                    picture = _parallel(model, seed, size)
                    reused.append(sampling.report()["sampling_seconds"])
                    rounds.append(sampling.report()["rounds"])
                else:
                    exact, seconds = _sample(model, seed, size)
                    stock.append(seconds)
            likeness.append(min(120.0, psnr(picture, exact)))
        faster = statistics.median(before / after for before, after in zip(stock, reused))
        rows.append(
            (
                size,
                f"{statistics.median(stock):.2f}",
                f"{statistics.median(reused):.2f}",
                f"{faster:.2f}",
                rounds[0],
                f"{min(likeness):.1f}",
            )
        )
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
    """A SAMPLER_SAMPLE wrapper that measures the seconds of the sampler alone, as the workers do."""

    seconds = 0.0

    def __call__(self, executor, *args, **kwargs):
        started = time.perf_counter()
        result = executor(*args, **kwargs)
        self.seconds = time.perf_counter() - started
        return result
