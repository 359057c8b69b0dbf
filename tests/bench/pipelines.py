"""Step Reuse of diffusers' pipelines:  python3 tests/bench/pipelines.py [--computed] [--trained] [--measure]

Without an option, the first two parts. Ranks are real processes of this machine, joined by gloo.
  --computed  the pipelines and settings that ParaStep (arXiv 2505.14741) was published with, as tiny ones of the real
              classes with random weights: rounds, evaluations per rank, and the speed-up computed from them, steps /
              rounds. Every guess is accepted (tolerance 0), so this is arithmetic, and no claim about pictures;
  --trained   the tiny trained model as a FluxPipeline, with the default acceptance: rounds, and PSNR of the picture
              against all steps in turn, beside the fair rival: as many steps as there were rounds;
  --measure   seconds of the trained model on two workers of a pool against one. Only on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

import bench

PARTS = ("computed", "trained", "measure")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8], help="of --computed")
    parser.add_argument("--look-ahead", type=int, nargs="+", default=[2, 4], help="of --trained")
    parser.add_argument("--steps", type=int, default=60, help="of the trained model")
    parser.add_argument("--size", type=int, default=512, help="pixels of a side, of the trained model")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=100, help="fresh ones: nothing here was tuned on them")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    bench.begin(__file__)
    names = ("diffusers", "transformers")
    print(", ".join(f"{name} {version(name)}" for name in names) + f"; load {os.getloadavg()[0]:.1f}\n", flush=True)
    from pipelines_parts.computed import computed, verdicts
    from pipelines_parts.demo import measured, trained

    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    parts = {part for part in PARTS if getattr(chosen, part)} or set(PARTS[:2])
    with tempfile.TemporaryDirectory() as folder:
        if "computed" in parts:
            header, rows, found = computed(Path(folder), chosen.ranks)
            print("## Published settings, computed: every guess accepted\n\n" + bench.table(header, rows), flush=True)
            print("\n" + "\n".join(verdicts(found, max(chosen.ranks))), flush=True)
        if "trained" in parts:
            header, rows = trained(Path(folder), chosen.look_ahead, chosen.steps, chosen.size, seeds)
            print(f"\n## The trained pipeline, {chosen.steps} steps\n\n" + bench.table(header, rows), flush=True)
        if "measure" in parts:
            header, rows = measured(chosen.steps, chosen.size, seeds)
            print(f"\n## Seconds, two workers, {chosen.steps} steps\n\n" + bench.table(header, rows), flush=True)


if __name__ == "__main__":
    main()
