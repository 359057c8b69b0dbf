"""The trained model as a pipeline: how close Step Reuse stays, against fewer steps, and its seconds on a pool."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tiny_picture
from compact_parallel.nodes.demo_pipeline import DIFFUSERS, MODELS, TINY, complete
from compact_parallel.runtime.comfy.run.pipeline_run import PipelineRun
from compact_parallel.runtime.config import ParallelConfig, PoolConfig, StepReuseConfig, StrategyConfig
from compact_parallel.runtime.pipelines.inputs import PipelineInputs
from compact_parallel.runtime.pipelines.job import PipelineChoice
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.runtime.report.history import runs
from compact_parallel.runtime.report.metrics import psnr
from distributed import launch

from . import ranks

FOLDER = MODELS / DIFFUSERS / TINY
TIMEOUT_S = 3600
MOST = 120.0
"""The largest likeness in decibels; pictures that are closer count as equal."""


def trained(
    folder: Path, look_aheads: Sequence[int], steps: int, size: int, seeds: Sequence[int]
) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows, one per look_ahead, with as many ranks."""
    complete(FOLDER)
    found: dict[int, list[tuple[int, float, float]]] = {ahead: [] for ahead in look_aheads}
    for seed in seeds:
        prompt = _prompt(seed)

        def sampled(world: int, runs: list[tuple[int, bool]], prompt: str = prompt, seed: int = seed) -> list[Any]:
            given = (FOLDER, prompt, size, seed, runs)
            return launch(ranks.trained, world, folder, *given, timeout_s=TIMEOUT_S, imports=("diffusers",))[0]

        reused = {ahead: sampled(ahead, [(steps, True)])[0] for ahead in look_aheads}
        rounds = {ahead: len(count["accepted"]) for ahead, (_, count) in reused.items()}
        serial = sampled(1, [(each, False) for each in (steps, *rounds.values())])
        exact = serial[0][0]
        for ahead, (fewer, _) in zip(look_aheads, serial[1:]):
            found[ahead].append((rounds[ahead], _psnr(reused[ahead][0], exact), _psnr(fewer, exact)))
    header = ("look_ahead = ranks", "rounds", "speed-up by rounds", "PSNR dB, worst / mean", "fewer steps, PSNR dB")
    rows = []
    for ahead, made in found.items():
        took, likeness, rival = zip(*made)
        mean = statistics.mean(took)
        rows.append((ahead, f"{mean:g}", f"{steps / mean:.2f}", _worst_and_mean(likeness), _worst_and_mean(rival)))
    return header, rows


def measured(steps: int, size: int, seeds: Sequence[int]) -> tuple[tuple[str, ...], list[tuple]]:
    """Header and rows: seconds of one worker and of two, in turn, as the pool reports them.

    Every worker has one core and one thread, as a device of its own; a worker alone would take all cores.
    """
    complete(FOLDER)
    one, two = PoolConfig(devices="cpu", name="one"), PoolConfig(devices="cpu,cpu", name="two")
    ways = {
        "one worker": ParallelConfig(pool=one),
        "two workers, tokens split, exact": ParallelConfig(pool=two),
        "two workers, Step Reuse": ParallelConfig(
            pool=two,
            strategy=StrategyConfig(mode="manual", step_degree=2),
            step_reuse=StepReuseConfig("look_ahead", 2),
        ),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rounds: dict[str, int] = {}
    pictures: dict[str, list[Any]] = {way: [] for way in ways}
    for seed, way in itertools.product((seeds[0], *seeds), ways):  # the first run of each starts and loads
        with _one_core() if way == "one worker" else contextlib.nullcontext():
            made = _sampled(ways[way], steps, size, seed)
        report = runs().latest()
        seconds[way].append(report["sampling_seconds"])
        rounds[way] = report["rounds"]
        pictures[way].append(made)
    for pool in (one, two):
        pools().find(pool.name).stop()
    rows = []
    for way in ways:
        took = statistics.median(seconds[way][1:])
        faster = statistics.median(a / b for a, b in zip(seconds["one worker"][1:], seconds[way][1:]))
        alike = [_psnr(made, exact) for made, exact in zip(pictures[way], pictures["one worker"])]
        rows.append((way, rounds[way], f"{took:.1f}", f"{faster:.2f}", f"{min(alike):.1f}"))
    return ("", "rounds", "seconds, median", "times as fast", "PSNR dB, worst"), rows


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """A pool that starts meanwhile has one core, where the system can be told so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _sampled(config: ParallelConfig, steps: int, size: int, seed: int) -> Any:
    arguments = ranks.demo_arguments(_prompt(seed), size, steps)
    inputs = PipelineInputs(
        prompt=arguments["prompt"], negative_prompt=arguments["negative_prompt"], guidance=ranks.GUIDANCE, seed=seed,
        steps=steps, width=size, height=size, arguments={"max_sequence_length": 8},
    )  # fmt: skip
    return PipelineRun(PipelineChoice(str(FOLDER), "float32"), config).sample(inputs, None).values


def _prompt(seed: int) -> str:
    return ", ".join(tiny_picture.prompt(seed).values())


def _psnr(picture: Any, exact: Any) -> float:
    return min(MOST, psnr(picture.clamp(0, 1), exact.clamp(0, 1)))


def _worst_and_mean(values: Sequence[float]) -> str:
    return f"{min(values):.1f} / {statistics.mean(values):.1f}"
