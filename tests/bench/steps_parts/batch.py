"""BatchStep: Step Reuse on one worker, whose calls go through the model as a batch, against stock ComfyUI."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import sampling
import tiny_picture
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.report.metrics import psnr

SIZES = (128, 256, 512)
STEPS = 20
REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2)


def batches(seeds: Sequence[int]) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows: seconds of stock and of BatchStep in turns, the median, on one thread each."""
    rows = []
    for size in SIZES:
        stock, reused, likeness, rounds = [], [], [], []
        model = tiny_picture.model_for(size)
        _sample(sampling.parallel(model, 1, step_reuse=REUSE), 0, size)
        for seed in seeds:
            exact, seconds = _sample(model, seed, size)
            stock.append(seconds)
            picture, _ = _sample(sampling.parallel(model, 1, step_reuse=REUSE), seed, size)
            reused.append(sampling.report()["sampling_seconds"])
            likeness.append(min(120.0, psnr(picture, exact)))
            rounds.append(sampling.report()["rounds"])
        before, after = statistics.median(stock), statistics.median(reused)
        rows.append((size, f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}", rounds[0], f"{min(likeness):.1f}"))
    return ("pixels", "stock, s", "BatchStep, s", "times as fast", "rounds", "PSNR worst"), rows


def _sample(patcher, seed: int, size: int):
    started = time.perf_counter()
    samples = tiny_picture.sample(patcher, seed, size=size, steps=STEPS)
    return tiny_picture.picture(samples), time.perf_counter() - started
