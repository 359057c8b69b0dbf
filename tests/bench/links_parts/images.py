"""Measures sampling on the product's own pool, with its workers in network namespaces: seconds, images and reports."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sampling
import tiny_picture
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import CompressionConfig, ConfigError, StepReuseConfig
from compact_parallel.runtime.pool.errors import JobFailed, PoolError
from compact_parallel.runtime.pool.pool import Pool
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.runtime.pool.worker_group import Entry

from .bystanders import Bystanders
from .cases import Case
from .namespaces import RATES, Links

HANDLER = "tests.bench.links_parts.inside:sampling_handler"
WARM_UP_STEPS = 3
WARM_UP_CALLS_AHEAD = 12
SLOWEST_IMAGE_S = 600.0


@dataclass(frozen=True)
class Shape:
    """Settings of an image: pixels of a side, Euler steps, and the seed of prompt and noise."""

    size: int
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class Image:
    """One sampled image: x_BHWC in 0..1, the seconds of the sampler, and the run's report ({} for serial).

    `others`: the mean number of cores that other processes kept busy during sampling.
    """

    picture: torch.Tensor
    seconds: float
    report: dict
    others: float


@dataclass
class Result:
    """All images of one case on one link. `problem` says why there are no images, or no more."""

    case: Case
    images: list[Image] = field(default_factory=list)
    problem: str = ""

    @property
    def seconds(self) -> float:
        """The median of the images' seconds."""
        return statistics.median(image.seconds for image in self.images)


@dataclass(frozen=True)
class OnLink:
    """The results of every case on one link; `link` is the link as the pool measured it."""

    link: dict | None
    results: list[Result]


@contextmanager
def workers_in(namespaces: Sequence[str]) -> Iterator[Pool]:
    """Registers the pool that `sampling.parallel` uses, with its workers in these namespaces; it is not started yet,
    and stopped at the end."""
    devices = ("cpu",) * len(namespaces)
    entry = Entry(HANDLER, ("main.py",), {"namespaces": list(namespaces)})
    pool = pools().get(sampling.config(len(namespaces)).pool, devices, entry)
    try:
        yield pool
    finally:
        pool.stop()


class _Clock:
    """A SAMPLER_SAMPLE wrapper that measures the seconds of the sampler alone, as the workers do."""

    seconds = 0.0

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = executor(*args, **kwargs)
        self.seconds = time.perf_counter() - started
        return result


def serial_image(shape: Shape) -> Image:
    """Samples the image in this process, on one thread."""
    clock = _Clock()
    bystanders = Bystanders([os.getpid()])
    patcher = tiny_picture.model().clone()
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "clock", clock)
    samples = tiny_picture.sample(patcher, shape.seed, size=shape.size, steps=shape.steps)
    others = bystanders.cores()
    return Image(tiny_picture.picture(samples), clock.seconds, {}, others)


def image(case: Case, pool: Pool, shape: Shape) -> Image:
    """Samples the image on the workers of a pool, which are started if necessary. Raises the errors of the product, and
    PoolError after SLOWEST_IMAGE_S seconds.
    """
    if case.strategy is None:
        return serial_image(shape)
    pool.start()
    compression = CompressionConfig(**case.compression)
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=case.look_ahead) if case.look_ahead > 1 else None
    patcher = sampling.parallel(tiny_picture.model(), pool.world, compression, step_reuse=reuse, **case.strategy)
    bystanders = Bystanders([os.getpid(), *(worker["pid"] for worker in pool.status()["workers"])])
    limit = threading.Timer(SLOWEST_IMAGE_S, pool.stop)
    limit.start()
    try:
        samples = tiny_picture.sample(patcher, shape.seed, size=shape.size, steps=shape.steps)
    finally:
        limit.cancel()
    others = bystanders.cores()
    report = sampling.report()
    return Image(tiny_picture.picture(samples), report["sampling_seconds"], report, others)


def measure(cases: Sequence[Case], pool: Pool, shape: Shape, repeats: int, say: Callable[[str], None]) -> list[Result]:
    """Does one short run of every case as a warm-up, then `repeats` rounds of one image of every case."""
    results = [Result(case) for case in cases]
    for round_number in range(repeats + 1):
        for result in results:
            if result.problem:
                continue
            try:
                made = image(result.case, pool, shape if round_number else _short(shape, result.case))
            except (ConfigError, Unsupported) as error:
                result.problem = f"not available: {_first_sentence(error)}"
            except JobFailed as error:
                how = "not available" if error.kind == "Refused" else f"failed: {error.kind}"
                result.problem = f"{how}: {_first_sentence(error)}"
            except PoolError as error:
                result.problem = f"failed: {_first_sentence(error)}"
            else:
                if round_number:
                    result.images.append(made)
                    say(f"  {result.case.name}: {made.seconds:.2f} s")
            if result.problem:
                say(f"  {result.case.name}: {result.problem}")
    return results


def _short(shape: Shape, case: Case) -> Shape:
    """The shape of a warm-up run; Step Reuse needs more steps than other cases."""
    steps = WARM_UP_STEPS if case.look_ahead == 1 else WARM_UP_CALLS_AHEAD
    return Shape(shape.size, min(steps, shape.steps), shape.seed)


def over(
    rate: str, links: Links, pool: Pool, cases: Sequence[Case], shape: Shape, repeats: int, say: Callable[[str], None]
) -> OnLink:
    """The results on one link. The pool is restarted, because it measures the link when it starts."""
    say(f"{links.world} workers, {rate}")
    links.limit(RATES[rate])
    pool.restart()
    link = pool.status()["link"]
    here = [case for case in cases if case.rates is None or rate in case.rates]
    return OnLink(link, measure(here, pool, shape, repeats, say))


def _first_sentence(error: BaseException) -> str:
    return str(error).splitlines()[0].split("; ")[0][:120]
