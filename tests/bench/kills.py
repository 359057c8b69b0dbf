"""Kills workers at random moments of runs, and compares the pictures:  python3 tests/bench/kills.py [--runs 100]

Each run samples the tiny trained model on two workers, one of which gets SIGKILL at a random moment (worker 0 in every
third run); then the latent is compared with that of the same run without the fault. The samplers and ways of sharing
take turns. Prints a table, and what did not come out right.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import statistics
import threading
import time
from typing import Any

import bench

SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "heun")
STEPS = 20
SIZE = 256
STREAMS_ANEW = 0.2
"""How far a compressed run may be off: its streams start anew, and so do their errors."""


def ways() -> dict[str, dict[str, Any]]:
    """How the workers share a run, by name: the parts of a ParallelConfig."""
    from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig, StrategyConfig

    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2)
    by_tokens = StrategyConfig(mode="manual", ring_degree=2)
    return {
        "cfg": {"strategy": StrategyConfig(mode="manual", cfg_degree=2)},
        "tokens": {"strategy": by_tokens},
        "tokens, 2 bit": {"strategy": by_tokens, "compression": CompressionConfig(mode="codec", codec="2bit")},
        "Step Reuse": {"strategy": StrategyConfig(mode="manual", step_degree=2), "step_reuse": reuse},
    }


class Killer(threading.Thread):
    """Kills a worker of the pool `seconds` after it has begun to sample. `hit`: its state when it was killed."""

    def __init__(self, pool: Any, rank: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._pool, self._rank, self._seconds = pool, rank, seconds
        self.hit = ""
        self.over = threading.Event()

    def run(self) -> None:
        while self._pool.state != "sampling" and not self.over.wait(0.005):
            pass
        if self.over.wait(self._seconds):
            return
        worker = self._pool.status()["workers"][self._rank]
        self.hit = worker["state"]
        if worker["pid"]:
            os.kill(worker["pid"], signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    bench.begin(__file__)
    import tiny_picture
    from compact_parallel.runtime.comfy.run.outer_sample import parallelised, pool_for
    from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, PoolConfig
    from compact_parallel.runtime.report.history import runs
    from compact_parallel.runtime.report.metrics import difference

    chance, rows, wrong = random.Random(chosen.seed), {}, []
    cases = itertools.cycle(itertools.product(ways().items(), SAMPLERS))
    expected: dict[tuple[str, str], tuple[Any, float, int]] = {}
    for number, ((name, way), sampler) in zip(range(chosen.runs), cases):
        config = ParallelConfig(**{"compression": CompressionConfig(mode="off"), "pool": PoolConfig("cpu,cpu"), **way})
        patcher, pool = parallelised(tiny_picture.model_for(SIZE), config), pool_for(config, ("cpu", "cpu"))
        sample = lambda: tiny_picture.sample(patcher, 7, steps=STEPS, size=SIZE, sampler=sampler)  # noqa: B023, E731
        if (name, sampler) not in expected:
            sample()  # the first run starts the workers
            latent = sample()
            report = runs().latest()
            expected[name, sampler] = latent, report["sampling_seconds"], report["calls"]
        right, seconds, calls = expected[name, sampler]
        killer = Killer(pool, 0 if number % 3 == 0 else 1, chance.uniform(0, seconds))
        killer.start()
        started = time.perf_counter()
        try:
            off, error = difference(sample(), right), ""
        except Exception as raised:
            off, error = float("inf"), f"{type(raised).__name__}: {raised}"
        killer.over.set()
        killer.join()
        report = runs().latest()
        good = off < (STREAMS_ANEW if "bit" in name else 1e-5)
        again = report["calls"] + report["resumed_calls"] - calls
        took = time.perf_counter() - started - seconds
        rows.setdefault(name, []).append((good, killer.hit == "sampling", report["restarts"], again, off, took))
        if not good or again > 0:
            which = f"run {number}, {name}, {sampler}, worker {0 if number % 3 == 0 else 1}"
            wrong.append(f"{which}: off {off:.2g}, {again} calls twice. {error}")
        print(f"{number} {name} {sampler}: {off:.2g}, restarts {report['restarts']}", flush=True)
    header = ("way", "runs", "right", "hit sampling", "restarts", "calls twice", "worst error", "s lost, median")
    print("\n" + bench.table(header, [_row(name, found) for name, found in rows.items()]))
    print("\n".join(["", *wrong]) if wrong else "\nAll came out right.")


def _row(name: str, found: list[tuple]) -> tuple:
    good, hit, restarts, again, off, took = zip(*found)
    return name, len(found), sum(good), sum(hit), sum(restarts), sum(again), f"{max(off):.1e}", (
        f"{statistics.median(took):.1f}"
    )


if __name__ == "__main__":
    main()
