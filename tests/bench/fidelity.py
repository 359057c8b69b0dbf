"""How far a compressed picture is from the serial one:  python3 tests/bench/fidelity.py [--seeds N] [--size PIXELS]

Samples the tiny trained model serially and on two CPU workers (tokens split by ring_degree 2) with every codec, and
prints the PSNR of the decoded pictures against the serial ones. One seed is one prompt and one noise.
"""

from __future__ import annotations

import argparse
import statistics

import bench

CASES = {
    "exact": {"mode": "off"},
    "int8": {"codec": "int8"},
    "4bit": {"codec": "4bit"},
    "2bit": {"codec": "2bit"},
    "2bit, text exact": {"codec": "2bit", "keep_text_exact": True},
    "2bit, warm-up 1": {"codec": "2bit", "warmup_calls": 1},
    "2bit, predictor previous": {"codec": "2bit", "predictor": "previous"},
    "1bit": {"codec": "1bit"},
    "2bit, open loop": {"codec": "2bit", "error_feedback": False},
    "2bit, order 0": {"codec": "2bit", "predictor": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    bench.begin(__file__)
    import tiny_picture
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.metrics import psnr
    from sampling import parallel, report

    shape = {"size": arguments.size, "steps": arguments.steps}
    cases = {name: CASES[name] for name in arguments.cases}
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in cases}
    for seed in range(arguments.seeds):
        serial = tiny_picture.picture(tiny_picture.sample(tiny_picture.model(), seed, **shape))
        for name, choices in cases.items():
            compression = CompressionConfig(**{"mode": "codec", **choices})
            patcher = parallel(tiny_picture.model(), 2, compression, ring_degree=2)
            shown = tiny_picture.picture(tiny_picture.sample(patcher, seed, **shape))
            ran = report()
            error = ran["max_relative_error"] or 0.0
            found[name].append((psnr(shown, serial), ran["effective_ratio"], error, ran["sampling_seconds"]))
        print(f"seed {seed}: " + ", ".join(f"{name} {runs[-1][0]:.1f} dB" for name, runs in found.items()), flush=True)
    rows = []
    for name, runs in found.items():
        quality, ratio, error, seconds = zip(*runs)
        rows.append(
            (
                name,
                f"{min(quality):.1f} / {statistics.mean(quality):.1f}",
                f"{statistics.mean(ratio):.2f}",
                f"{max(error):.3f}",
                f"{statistics.median(seconds):.2f}",
            )
        )
    print(f"\n{arguments.seeds} seeds, {arguments.size} x {arguments.size}, {arguments.steps} Euler steps, CFG 3\n")
    header = ("K and V sent as", "PSNR dB, worst / mean", "ratio to 16 bit", "worst K/V error", "seconds, median")
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
