"""Checks a pool of two workers on the card: start, link, errors by degree and by codec, and the workers' memory."""

from __future__ import annotations

import time
from collections.abc import Callable

CODECS = ("int8", "fp8", "4bit", "3bit", "2bit", "1bit", "low_rank", "top_k")


def run(tell: Callable) -> None:
    import sampling
    from compact_parallel.runtime.config import CompressionConfig
    from sampling import ksampler, model, parallel, relative_error

    started = time.monotonic()
    sampling.pool(2).start()
    tell(start_seconds=time.monotonic() - started, status=sampling.pool(2).status())
    stock = ksampler(model("flux"), "flux", steps=8)
    again = ksampler(model("flux"), "flux", steps=8)
    tell(stock_twice=relative_error(again, stock))
    for degree in ("cfg_degree", "ring_degree", "ulysses_degree"):
        samples = ksampler(parallel(model("flux"), 2, **{degree: 2}), "flux", steps=8)
        tell(**{degree: relative_error(samples, stock)})
    errors = {}
    for codec in CODECS:
        compression = CompressionConfig(mode="codec", codec=codec)
        samples = ksampler(parallel(model("flux"), 2, compression, ring_degree=2), "flux", steps=8)
        errors[codec] = [relative_error(samples, stock), sampling.report()["effective_ratio"]]
        tell(codecs=errors)
    tell(warnings=sampling.report()["warnings"], workers=sampling.pool(2).status()["workers"])
    sampling.pool(2).stop()
