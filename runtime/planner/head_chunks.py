"""The size of head chunks: heads of an attention travel in chunks, one while another is computed, on a slow link.

More chunks hide more of the transfer, but each costs time in every layer. On a fast link one chunk is best.
"""

from __future__ import annotations

from .link import Link

EXACT_SECONDS, CODED_SECONDS = 4e-4, 4e-3
"""The time of the host for one more chunk, exact and through a residual wire: up to 0.4 and 2.5 ms where K and V are
gathered, 0.9 and 6 ms with Ulysses (tests/bench/exchanges.py, two CPU processes)."""
WORTH = 5
"""A chunk must take so many times as long on the link as it costs: attention hides only a part of the transfer, half of
it at 1 Gbit/s, and smaller ones use a device less well."""


def least_nbytes(link: Link, *, coded: bool) -> int:
    """The least bytes of a chunk: what the link carries in WORTH times its cost and one latency.

    Messages travel together, so each waits for the latency once. `coded`: Residual Compression is on.
    """
    seconds = WORTH * (CODED_SECONDS if coded else EXACT_SECONDS) + link.latency_s
    return max(1, round(seconds * link.bytes_per_second))
