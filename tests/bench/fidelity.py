"""How far a compressed picture is from the serial one:  python3 tests/bench/fidelity.py [--seeds N] [--size PIXELS]

Samples the tiny trained model serially and on two CPU workers (tokens split by ring_degree 2) with every codec and
predictor, and prints the PSNR and SSIM of the decoded pictures against the serial ones. Each seed is another prompt and
another noise. The rows "reference" have the settings of CompactFusion's published implementation: its 2-bit levels, a
16-bit warm-up of one call and a constant predictor. They flatter it by exact scales and by our exact local shard.
"""

from __future__ import annotations

import argparse
import statistics

import bench

REFERENCE = {"warmup_codec": "16bit", "warmup_calls": 1, "predictor": "previous"}
CASES = {
    "exact": {"mode": "off"},
    "int8": {"codec": "int8"},
    "fp8": {"codec": "fp8"},
    "4bit": {"codec": "4bit"},
    "3bit": {"codec": "3bit"},
    "2bit": {"codec": "2bit"},
    "1bit": {"codec": "1bit"},
    "low_rank 16": {"codec": "low_rank", "rank": 16},
    "low_rank_4bit 32": {"codec": "low_rank_4bit", "rank": 32},
    "top_k": {"codec": "top_k"},
    "4bit, previous": {"codec": "4bit", "predictor": "previous"},
    "2bit, previous": {"codec": "2bit", "predictor": "previous"},
    "1bit, previous": {"codec": "1bit", "predictor": "previous"},
    "low_rank 16, previous": {"codec": "low_rank", "rank": 16, "predictor": "previous"},
    "4bit, order 0": {"codec": "4bit", "predictor": "none"},
    "2bit, order 0": {"codec": "2bit", "predictor": "none"},
    "1bit, order 0": {"codec": "1bit", "predictor": "none"},
    "2bit, text exact": {"codec": "2bit", "keep_text_exact": True},
    "2bit, warm-up 1": {"codec": "2bit", "warmup_calls": 1},
    "2bit, open loop": {"codec": "2bit", "error_feedback": False},
    "ratio 5": {"mode": "ratio", "ratio": 5.0},
    "ratio 6": {"mode": "ratio", "ratio": 6.0},
    "ratio 9": {"mode": "ratio", "ratio": 9.0},
    "ratio 16": {"mode": "ratio", "ratio": 16.0},
    "quality 0.07": {"mode": "quality", "max_relative_error": 0.07},
    "quality 0.03": {"mode": "quality", "max_relative_error": 0.03},
    "reference 2bit": {"codec": "2bit_reference", **REFERENCE},
    "reference 1bit": {"codec": "1bit", **REFERENCE},
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
    from compact_parallel.runtime.report.metrics import psnr, ssim
    from sampling import parallel, report

    shape = {"size": arguments.size, "steps": arguments.steps}
    cases = {name: CASES[name] for name in arguments.cases}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in cases}
    for seed in range(arguments.seeds):
        serial = tiny_picture.picture(tiny_picture.sample(tiny_picture.model(), seed, **shape))
        for name, choices in cases.items():
            compression = CompressionConfig(**{"mode": "codec", **choices})
            patcher = parallel(tiny_picture.model(), 2, compression, ring_degree=2)
            shown = tiny_picture.picture(tiny_picture.sample(patcher, seed, **shape))
            ran = report()
            error = ran["max_relative_error"] or 0.0
            quality = psnr(shown, serial), ssim(shown, serial)
            found[name].append((*quality, ran["effective_ratio"], error, ran["sampling_seconds"]))
        print(f"seed {seed}: " + ", ".join(f"{name} {runs[-1][0]:.1f} dB" for name, runs in found.items()), flush=True)
    rows = []
    for name, runs in found.items():
        quality, similarity, ratio, error, seconds = zip(*runs)
        rows.append(
            (
                name,
                f"{min(quality):.1f} / {statistics.mean(quality):.1f}",
                f"{min(similarity):.4f} / {statistics.mean(similarity):.4f}",
                f"{statistics.mean(ratio):.2f}",
                f"{max(error):.3f}",
                f"{statistics.median(seconds):.2f}",
            )
        )
    print(f"\n{arguments.seeds} seeds, {arguments.size} x {arguments.size}, {arguments.steps} Euler steps, CFG 3\n")
    header = ("sent as", "PSNR dB, worst / mean", "SSIM, worst / mean", "ratio to 16 bit", "worst K/V error", "seconds")
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
