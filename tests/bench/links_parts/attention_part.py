"""Makes the table of one attention, ours against the two libraries."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import bench
from compact_parallel.runtime.config import PoolConfig
from compact_parallel.runtime.pool.local.subprocess_launcher import LocalLauncher
from compact_parallel.runtime.pool.pool import Pool
from compact_parallel.runtime.pool.worker_group import SILENCE_SECONDS, Entry

from . import attention_ways, peers
from .attention_calls import WARM_UP
from .namespaces import RATES, Links

SHAPES = {
    "the tiny model's attention, float32": ((2, 1032, 2, 128), "float32"),
    "a larger one, bfloat16": ((1, 2048, 12, 128), "bfloat16"),
}
HANDLER = "tests.bench.links_parts.inside:attention_handler"
IDLE_S = 600.0
NOTE = (
    "Milliseconds of the slowest rank, the median after three calls. diffusers 0.42.1 runs as it is (the native "
    "backend of its attention, a ContextParallelConfig). yunchang 0.6.4's ring calls a CUDA kernel; it was given the "
    "CPU kernel of the same name, and all else is its own. The tensors are random and change by 17 % per call, so the "
    "errors of the rows with 2 bit are larger than those of a model, whose attention is far from uniform."
)


def table(links: Links, rates: list[str], calls: int, say: Callable[[str], None]) -> tuple[str, list[dict]]:
    """One table per shape with milliseconds per attention by link, and the rows as JSON."""
    options = {"namespaces": links.namespaces, "peers": str(peers.folder())}
    config = PoolConfig(devices=f"cpu*{links.world}", name="attention")
    entry = Entry(HANDLER, ("main.py",), options)
    pool = Pool(config, ("cpu",) * links.world, entry, IDLE_S, SILENCE_SECONDS, LocalLauncher())
    rows, tables = [], []
    try:
        for name, (shape, dtype) in SHAPES.items():
            job = attention_ways.Job(shape, dtype, calls, tuple(attention_ways.WAYS))
            found = {}
            for rate in rates:
                say(f"{links.world} workers, {rate}, {name}")
                links.limit(RATES[rate])
                found[rate] = json.loads(pool.run(job.to_bytes(), lambda *step: None, lambda: None).result)
                rows += [{"shape": shape, "dtype": dtype, "link": rate, "way": w, **r} for w, r in found[rate].items()]
            tables.append(f"{name}, (B, N, H, D) = {shape}\n\n{_table(found)}")
    finally:
        pool.stop()
    return "\n\n".join(tables), rows


def _table(found: dict[str, dict[str, dict]]) -> str:
    header = ("way", *(f"ms at {rate}" for rate in found), "error of the output")
    cells = []
    for way in attention_ways.WAYS:
        by_rate = [result[way] for result in found.values()]
        if "problem" in by_rate[0]:
            cells.append((way, by_rate[0]["problem"], *[""] * len(by_rate)))
            continue
        times = [f"{statistics.median(result['ms'][WARM_UP:]):.1f}" for result in by_rate]
        cells.append((way, *times, f"{max(result['error'] for result in by_rate):.1e}"))
    return bench.table(header, cells)
