"""What an exchange costs beside the attention itself:  python3 tests/bench/exchanges.py [tokens ...]

Two processes on one machine, one thread each; batch 2, 8 heads, float32, (B, H, L, D) as most models call attention.
Per tokens x head dim, exchange, codec and number of head chunks, for one attention call, in milliseconds:

- "attention": processor time in the attention function,
- "beside it": processor time of the calling thread outside the attention function (packing, copying, decoding, ...),
- "all threads": that of the whole process outside the attention function (with gloo's thread and the watcher),
- "exposed", "hidden": wall time of communication, from the ledger.

Figures are the lower quartile of the calls, in processor time, so that other work on the machine hardly changes them.
The number of head chunks that is chosen where the link was not measured is marked *.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

BATCH, HEADS, CALLS = 2, 8, 16
TOKENS = (96, 288, 1152)
DIMS = (32, 64)
WAYS = (("all_gather", "off"), ("ulysses", "off"), ("all_gather", "2bit"), ("ulysses", "2bit"))
COUNTS = (1, 2, 4)


def calls(rank: int, world: int, cases: list[tuple]) -> list[dict[str, float]]:
    """Runs all cases (tokens, dim, exchange, codec, head chunks) on one rank. Returns for each the lower quartiles over
    the calls, in milliseconds."""
    return [_case(rank, world, *case) for case in cases]


def _case(rank: int, world: int, tokens: int, dim: int, exchange: str, codec: str, count: int) -> dict[str, float]:
    import torch
    import torch.distributed as dist
    from compact_parallel.runtime.attention.axis import Axis
    from compact_parallel.runtime.attention.layout import TokenLayout
    from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
    from compact_parallel.runtime.compression.residual_wire import make_wire
    from compact_parallel.runtime.compression.wire import Tag
    from compact_parallel.runtime.config import CompressionConfig
    from compact_parallel.runtime.report.ledger import Ledger

    ledger, layout, spent = Ledger(), TokenLayout((tokens // 9, tokens - tokens // 9), world), [0.0]
    mode = {"mode": "off"} if codec == "off" else {"mode": "codec", "codec": codec}
    wire = make_wire(CompressionConfig(**mode), ledger, CALLS)
    alone, all_ranks = Axis("one", (rank,), 0), Axis("all", tuple(range(world)), rank, dist.group.WORLD)
    axes = (all_ranks, alone) if exchange == "ulysses" else (alone, all_ranks)
    chosen = SequenceAttention(*axes, "all_gather", wire, ledger)

    class Fixed(SequenceAttention):
        def _head_chunk_count(self, *_: object) -> int:
            return count

    def attention(q, k, v, heads, mask=None, skip_reshape=True, skip_output_reshape=False):
        start = time.thread_time()
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        spent[0] += time.thread_time() - start
        return out

    rows = []
    tag = Tag("layer", "kv", tuple(("cond", sample) for sample in range(BATCH)))
    local = [torch.randn(BATCH, HEADS, layout.chunk(rank), dim) for _ in range(3)]
    with torch.inference_mode(), Fixed(*axes, "all_gather", wire, ledger) as sequence:
        for call in range(CALLS):
            ledger.begin_call(call, 0.0)
            dist.barrier()
            spent[0], before = 0.0, (time.thread_time(), time.process_time())
            sequence(attention, *local, HEADS, layout=layout, tag=tag, skip_reshape=True)
            beside, everything = time.thread_time() - before[0] - spent[0], time.process_time() - before[1] - spent[0]
            record = ledger.to_json()["calls"][-1]
            exposed, hidden = record["seconds"].get("exposed", 0.0), record["hidden_seconds"]
            rows.append((spent[0], beside, everything, exposed, hidden))
    quartiles = [1e3 * sorted(column)[len(column) // 4] for column in zip(*rows[3:])]
    names = ("attention", "beside it", "all threads", "exposed", "hidden")
    chosen = chosen._head_chunk_count(attention, local[1].transpose(1, 2), layout, tag)
    return dict(zip(names, quartiles)) | {"chosen": float(chosen == count)}


def main() -> None:
    import bench

    bench.begin(__file__)
    from distributed import launch

    sizes = [(int(tokens), dim) for tokens in sys.argv[1:] or TOKENS for dim in DIMS]
    cases = [(*size, *way, count) for size in sizes for way in WAYS for count in COUNTS]
    with tempfile.TemporaryDirectory() as folder:
        found = launch(calls, 2, Path(folder), cases, timeout_s=600)[0]
    rows = []
    for (tokens, dim, exchange, codec, count), milliseconds in zip(cases, found):
        kv_kib = 2 * BATCH * -(-tokens // 2) * HEADS * dim * 4 / 1024
        chunks = f"{count}{'*' if milliseconds.pop('chosen') else ''}"
        figures = [f"{value:.2f}" for value in milliseconds.values()]
        rows.append((f"{tokens} x {dim}", f"{kv_kib:.0f}", exchange, codec, chunks, *figures))
    header = ("tokens x dim", "K and V of a rank, KiB", "exchange", "codec", "chunks", *found[0])
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
