"""The measured link between the workers. pool.probe and codec_speed measure it; compression.py decides by it."""

from __future__ import annotations

from dataclasses import dataclass

FAST = 1e9
"""Bytes per second above which splitting the tokens of a few calls, uncompressed, saves more time than it costs: PCIe
and NVLink are above it, Ethernet up to 10 Gbit/s is not."""


@dataclass(frozen=True)
class Link:
    """The link as the slowest rank measured it; equal on all ranks."""

    bytes_per_second: float
    """Throughput of one direction, while every rank sends and receives."""
    latency_s: float
    """Seconds until a small message has arrived."""
    codec_seconds_per_value: dict[str, float]
    """By codec name: seconds to pack and unpack one value on the workers' device (see codec_speed)."""

    @property
    def fast(self) -> bool:
        """Whether to split tokens for a few calls that would otherwise run on one worker."""
        return self.bytes_per_second >= FAST

    def to_json(self) -> dict:
        """The link as the pool's status shows it: plain values, times in milliseconds and nanoseconds."""
        return {
            "bytes_per_second": self.bytes_per_second,
            "latency_ms": 1e3 * self.latency_s,
            "codec_ns_per_value": {name: 1e9 * seconds for name, seconds in self.codec_seconds_per_value.items()},
        }

    @classmethod
    def from_json(cls, data: dict) -> Link:
        """The inverse of `to_json`."""
        seconds = {name: 1e-9 * ns for name, ns in data["codec_ns_per_value"].items()}
        return cls(data["bytes_per_second"], 1e-3 * data["latency_ms"], seconds)
