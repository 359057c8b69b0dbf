"""Decides what mode "auto" of Residual Compression means on a measured link."""

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
"""What auto chooses from, the most exact first."""
CLEARLY = 0.4
"""Compression pays where a value takes less than this part of its uncompressed time. What is uncompressed hides half of
its time on the link behind attention (measured at 1 Gbit/s), while coding takes the time of attention itself; and
estimates are off by some, where a link that is fast enough must never be made slower."""
NEARLY = 1.25
"""A more exact codec is taken where it takes at most so many times as long as the fastest."""


def seconds_per_value(link: Link, *, dtype_itemsize: int) -> dict[str, float]:
    """Seconds until one value has crossed the link: "off" uncompressed, and by codec name, coding included.

    `dtype_itemsize`: bytes of an uncompressed value. Latency is left out, as compression changes no number of messages.
    """
    coded = {
        name: BY_NAME[name].bits(*TYPICAL) / 8 / link.bytes_per_second + link.codec_seconds_per_value[name]
        for name in CANDIDATES
        if name in link.codec_seconds_per_value
    }
    return {"off": dtype_itemsize / link.bytes_per_second, **coded}


def resolve(config: CompressionConfig, link: Link | None, *, dtype_itemsize: int) -> CompressionConfig:
    """`config` with mode "auto" replaced by "off", or by "codec" and the codec; any other mode is the user's choice.

    Off where there is no measured link and where no codec saves clearly (CLEARLY). Else the most exact of CANDIDATES
    that does save clearly and is nearly (NEARLY) as fast as the fastest. Auto never chooses 1 bit, however slow the
    link: that much loss is for a person to accept. `dtype_itemsize`: bytes of a value of the tensors that are sent.
    """
    if config.mode != "auto":
        return config
    if link is None:
        return replace(config, mode="off")
    cost = seconds_per_value(link, dtype_itemsize=dtype_itemsize)
    off = cost.pop("off")
    good = [name for name in cost if cost[name] < CLEARLY * off and cost[name] <= NEARLY * min(cost.values())]
    return replace(config, mode="codec", codec=good[0]) if good else replace(config, mode="off")
