"""Resolves mode "auto" of Residual Compression for a measured link: off, or a codec."""

from __future__ import annotations

from dataclasses import replace

from ..compression.codecs import BY_NAME, TYPICAL
from ..config import CompressionConfig
from .link import Link

CANDIDATES = tuple(
    codec.name
    for codec in sorted(BY_NAME.values(), key=lambda codec: codec.bits(*TYPICAL), reverse=True)
    if codec.in_auto
)
"""Names of the codecs that auto chooses from, the most exact first."""
CLEARLY = 0.4
"""Compression is used if a value takes less than this part of its uncompressed time. Without compression half of the
time on the link is hidden behind attention (measured at 1 Gbit/s), while coding takes time from attention itself.
Estimates also have errors, and a link that is fast enough must never be made slower."""
NEARLY = 1.25
"""A more exact codec is preferred if it takes at most this many times as long as the fastest."""


def seconds_per_value(link: Link, *, dtype_itemsize: int) -> dict[str, float]:
    """Seconds for one value to cross the link: uncompressed under "off", and under each codec's name, coding included.

    `dtype_itemsize`: bytes of an uncompressed value. Latency is left out, because compression does not change the
    number of messages.
    """
    coded = {
        name: BY_NAME[name].bits(*TYPICAL) / 8 / link.bytes_per_second + link.codec_seconds_per_value[name]
        for name in CANDIDATES
        if name in link.codec_seconds_per_value
    }
    return {"off": dtype_itemsize / link.bytes_per_second, **coded}


def resolve(config: CompressionConfig, link: Link | None, *, dtype_itemsize: int) -> CompressionConfig:
    """`config` with mode "auto" replaced by "off", or by "codec" and a codec; other modes stay as the user chose them.

    "off" if there is no measured link or no codec is clearly faster (CLEARLY). Else the most exact of CANDIDATES that
    is clearly faster than no compression and nearly (NEARLY) as fast as the fastest. Auto never chooses 1 bit, however
    slow the link: that much loss is for a person to accept. `dtype_itemsize`: bytes of a value of the sent tensors.
    """
    if config.mode != "auto":
        return config
    if link is None:
        return replace(config, mode="off")
    cost = seconds_per_value(link, dtype_itemsize=dtype_itemsize)
    off = cost.pop("off")
    good = [name for name in cost if cost[name] < CLEARLY * off and cost[name] <= NEARLY * min(cost.values())]
    return replace(config, mode="codec", codec=good[0]) if good else replace(config, mode="off")
