"""Step parallelism against fewer steps:  python3 tests/bench/steps.py [--trained] [--mixture] [--caches] [--seeds N]

For every sampler, number of steps and look_ahead, prints how close the result is to that of serial sampling, over fresh
seeds: ours with each predictor, plain reuse (ParaStep's rule: hold the last prediction, no check, no tail), and the
fair rival: the same sampler with as many steps as ours has rounds, which takes the same time. Runs in this process, on
one device.
  --trained   the tiny trained model with CFG 3: PSNR of the decoded picture, worst and mean, in dB;
  --mixture   the exact posterior mean of Gaussian mixtures, as flow and as epsilon model: 20 log10 of the relative
              error of the samples, mean in dB with the sign of PSNR (more is better);
  --caches    ComfyUI's EasyCache and LazyCache on the trained model: the savings on one device without this pack;
  --batch     seconds of Step Reuse on one worker (BatchStep) against stock ComfyUI.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence

import bench

SAMPLERS = ("euler", "dpmpp_2m", "res_multistep", "heun", "deis", "uni_pc", "euler_ancestral", "dpmpp_2m_sde")
PREDICTORS = ("auto", "hold", "linear")
PLAIN = {"predictor": "hold", "tolerance": 0.0, "tail_calls": 0}
PARTS = ("trained", "mixture", "caches", "batch")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=100, help="fresh ones: nothing here was tuned on them")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--look-ahead", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--size", type=int, default=256, help="pixels of a side, for the trained model")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)  # an upper limit; all parts but --batch use one
    bench.begin(__file__)
    from steps_parts.batch import batches
    from steps_parts.caches import caches
    from steps_parts.sources import mixtures, trained

    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    parts = {part for part in PARTS if getattr(chosen, part)} or set(PARTS)
    if "trained" in parts:
        compare(
            f"The trained model, {chosen.size} x {chosen.size}: PSNR, worst / mean", trained(chosen.size), chosen, seeds
        )
    if "mixture" in parts:
        for name, source in mixtures().items():
            compare(f"Gaussian mixture, {name}: -20 log10 of the relative error, worst / mean", source, chosen, seeds)
    if "caches" in parts:
        header, rows = caches(chosen.size, seeds)
        print("\n## Caches on one device\n\n" + bench.table(header, rows), flush=True)
    if "batch" in parts:
        header, rows = batches(seeds)
        print("\n## One worker\n\n" + bench.table(header, rows), flush=True)


def compare(title: str, source: Callable, chosen: argparse.Namespace, seeds: Sequence[int]) -> None:
    """Prints one table. `source`(sampler, steps, seed, reuse or None) gives (result, rounds); `source.likeness`
    compares two results."""
    print(f'\n## {title}, dB, and after "in" the rounds it took\n', flush=True)
    header = ("sampler", "steps", "look_ahead", *PREDICTORS, "plain reuse", "fewer steps")
    print(bench.table(header, []), flush=True)
    for sampler in chosen.samplers:
        for steps in chosen.steps:
            exact = {seed: source(sampler, steps, seed, None) for seed in seeds}
            for ahead in chosen.look_ahead:
                row = _row(source, sampler, steps, ahead, exact)
                print("| " + " | ".join(row) + " |", flush=True)
                print(f"{sampler} {steps} {ahead}", end="\r", file=sys.stderr)


def _row(source: Callable, sampler: str, steps: int, ahead: int, exact: dict) -> list[str]:
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in (*PREDICTORS, "plain", "fewer")}
    for seed, (wanted, calls) in exact.items():
        ways = {predictor: {"predictor": predictor} for predictor in PREDICTORS} | {"plain": PLAIN}
        for name, way in ways.items():
            got, rounds = source(sampler, steps, seed, {"look_ahead": ahead, **way})
            found[name].append((source.likeness(got, wanted), rounds))
        fewer = max(2, round(steps * found["auto"][-1][1] / calls))
        got, rounds = source(sampler, fewer, seed, None)
        found["fewer"].append((source.likeness(got, wanted), rounds))
    return [sampler, str(steps), str(ahead), *map(_cell, found.values())]


def _cell(runs: list[tuple[float, int]]) -> str:
    """Worst and mean likeness, and the mean number of rounds, which determines the time of a run."""
    likeness, rounds = zip(*runs)
    return f"{min(likeness):.1f} / {statistics.mean(likeness):.1f} in {statistics.mean(rounds):.1f}"


if __name__ == "__main__":
    main()
