"""The measured link between the workers. pool.probe and codec_speed measure it; compression.py decides by it."""

from __future__ import annotations

from dataclasses import dataclass

FAST = 1e9
"""Bytes per second above which splitting the tokens of a few calls, uncompressed, saves more time than it costs: PCIe
and NVLink are above it, Ethernet up to 10 Gbit/s is not.

Between cards tokens never pay below it: FLUX at 1024 x 1024 sends 1.6 GB per call each way, and half of its tokens take
0.5 s less on a fast consumer card (estimated), most of which attention cannot hide."""


@dataclass(frozen=True)
class Link:
    """The link as the slowest rank measured it; equal on all ranks."""

    bytes_per_second: float
    """Throughput of one direction, while every rank sends and receives."""
    latency_s: float
    """Seconds until a small message has arrived."""
    codec_seconds_per_value: dict[str, float]
    """By codec name: seconds to pack and unpack one value on the workers' device (see codec_speed)."""
    cards: str = ""
    """The backend by which the workers' cards talk; empty between CPU workers."""

    @property
    def fast(self) -> bool:
        """Whether to split tokens for a few calls that would otherwise run on one worker."""
        return self.bytes_per_second >= FAST

    @property
    def against_tokens(self) -> str:
        """Why uncompressed tokens would make workers slower than one of them alone, with the way out; "" if not.

        By gloo all that cards send goes through the host's memory and keeps the host waiting.
        """
        if not self.cards or (self.fast and self.cards != "gloo"):
            return ""
        return (
            f"auto does not divide tokens between these cards, as the link ({self.cards}, "
            f"{self.bytes_per_second / 1e9:.2g} GB/s) would take longer than that saves; a codec of Residual "
            "Compression, Step Reuse or CFG above 1 gives the workers something to share, or set ring_degree by hand."
        )

    def to_json(self) -> dict:
        """The link as the pool's status shows it: plain values, times in milliseconds and nanoseconds."""
        return {
            "bytes_per_second": self.bytes_per_second,
            "latency_ms": 1e3 * self.latency_s,
            "codec_ns_per_value": {name: 1e9 * seconds for name, seconds in self.codec_seconds_per_value.items()},
            "cards": self.cards,
        }

    @classmethod
    def from_json(cls, data: dict) -> Link:
        """The inverse of `to_json`."""
        seconds = {name: 1e-9 * ns for name, ns in data["codec_ns_per_value"].items()}
        return cls(data["bytes_per_second"], 1e-3 * data["latency_ms"], seconds, data["cards"])
