"""Measures ComfyUI's own caches (EasyCache, LazyCache) on the trained model: model calls made, PSNR of the picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import comfy_extras.nodes_easycache as caching
import tiny_picture
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.report.metrics import psnr

STEPS = (20, 50)
THRESHOLDS = (0.1, 0.2, 0.4)
NODES = {"EasyCache": caching.EasyCacheNode, "LazyCache": caching.LazyCacheNode}


class _Counter:
    """A DIFFUSION_MODEL wrapper inside of the cache's wrapper that counts how often the model really runs."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, executor, *args, **kwargs):
        self.calls += 1
        return executor(*args, **kwargs)


def caches(size: int, seeds: Sequence[int]) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows: cache, steps, threshold, model calls made as a part of all, PSNR worst and mean."""
    rows = []
    for steps in STEPS:
        exact = {
            seed: tiny_picture.picture(_sample(tiny_picture.model_for(size), seed, size, steps)[0]) for seed in seeds
        }
        for name, node in NODES.items():
            for threshold in THRESHOLDS:
                likeness, shares = [], []
                for seed in seeds:
                    cached = node.execute(tiny_picture.model_for(size), threshold, 0.15, 0.95, False)[0]
                    samples, share = _sample(cached, seed, size, steps)
                    likeness.append(psnr(tiny_picture.picture(samples), exact[seed]))
                    shares.append(share)
                quality = f"{min(likeness):.1f} / {statistics.mean(likeness):.1f}"
                rows.append((name, steps, threshold, f"{statistics.mean(shares):.2f}", quality))
    return ("cache", "steps", "reuse_threshold", "model calls made", "PSNR worst / mean"), rows


def _sample(patcher, seed: int, size: int, steps: int):
    counter = _Counter()
    clone = patcher.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "counter", counter)
    samples = tiny_picture.sample(clone, seed, size=size, steps=steps)
    return samples, counter.calls / steps
