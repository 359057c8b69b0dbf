"""Error of every codec in its closed loop, on real keys and values:  python3 tests/bench/closed_loop.py [--steps N]

Samples the tiny trained model serially and records the keys and values of all its layers, for the image tokens that the
second of two ranks would send (516 of 256 channels at 512 pixels). They are coded as in a stream: int8 for two calls,
then the codec; least-squares predictor. The tensors are those of the exact run: errors do not act back on the model
(tests/bench/fidelity.py measures that).

Prints, per codec: bits per value after the warm-up, and the mean and the largest relative error of a call. Low-rank
codecs are also measured with one round of their search instead of two, and without a warm start.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import bench

WARMUP_CALLS = 2


def keys_and_values(steps: int) -> list[list[Any]]:
    """The (N, C) values of each layer's keys and values, call after call, for the positive condition."""
    import tiny_picture

    seen: dict[tuple, list[Any]] = {}

    def attention(func: Any, q: Any, k: Any, v: Any, heads: int, **options: Any) -> Any:
        layer = options["transformer_options"]["block_type"], options["transformer_options"]["block_index"]
        for name, x_BHND in (("k", k), ("v", v)):
            x_NC = x_BHND[0].transpose(0, 1).flatten(1)
            seen.setdefault((*layer, name), []).append(x_NC[-(len(x_NC) // 2) :].clone())
        return func(q, k, v, heads, **options)

    patcher = tiny_picture.model().clone()
    patcher.model_options["transformer_options"]["optimized_attention_override"] = attention
    tiny_picture.sample(patcher, 0, steps=steps)
    return list(seen.values())


def errors(codec: Any, series: list[Any], warm: bool) -> list[float]:
    """The relative error of each call after the warm-up."""
    from compact_parallel.runtime.compression.codecs import BY_NAME

    older, base, previous, found = 0 * series[0], 0 * series[0], None, []
    for call, x_NC in enumerate(series):
        trend = base - older
        k = float(((x_NC - base) * trend).sum() / (trend * trend).sum().clamp(min=1e-30))
        expected = base + max(-1.0, min(1.0, k)) * trend
        chosen = codec if call >= WARMUP_CALLS else BY_NAME["int8"]
        payload = chosen.encode(x_NC - expected, previous)
        previous = payload if warm and chosen is codec else None
        older, base = base, expected + chosen.decode(payload, *x_NC.shape, x_NC.dtype)
        found.append(float((x_NC - base).norm() / x_NC.norm()))
    return found[WARMUP_CALLS:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    bench.begin(__file__)
    from compact_parallel.runtime.compression.codecs import BY_NAME, low_rank

    series = keys_and_values(steps)
    shape = tuple(series[0][0].shape)
    print(f"{len(series)} tensors of {shape}, {len(series[0])} calls\n")
    rows = []

    def measure(label: str, codec: Any, warm: bool = True) -> None:
        found = [error for one in series for error in errors(codec, one, warm)]
        rows.append((label, f"{codec.bits(*shape):.3f}", f"{statistics.mean(found):.4f}", f"{max(found):.4f}"))

    for name, codec in sorted(BY_NAME.items(), key=lambda item: -item[1].bits(*shape)):
        measure(name, codec)
    rounds = low_rank.ROUNDS
    for name in ("low_rank", "low_rank_4bit"):
        for low_rank.ROUNDS in (1, 2):
            for warm in (False, True):
                measure(f"{name}, {low_rank.ROUNDS} rounds, {'warm' if warm else 'cold'}", BY_NAME[name], warm)
    low_rank.ROUNDS = rounds
    print(bench.table(("codec", "bits", "mean error", "largest error"), rows))


if __name__ == "__main__":
    main()
