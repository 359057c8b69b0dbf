"""The link between the workers, in numbers. Measured by pool.probe and codec_speed, decided upon in compression."""

from __future__ import annotations

from dataclasses import dataclass

FAST = 1e9
"""Bytes per second above which splitting the tokens of a few calls, uncompressed, does not take longer than it saves:
PCIe and NVLink are above it, Ethernet up to 10 Gbit/s is not."""


@dataclass(frozen=True)
class Link:
    """What the slowest rank measured; equal on all ranks."""

    bytes_per_second: float
    """Of one direction, while every rank sends and receives."""
    latency_s: float
    """Seconds until a small message has arrived."""
    codec_seconds_per_value: dict[str, float]
    """By codec name: what packing and unpacking one value takes on the workers' device (see codec_speed)."""

    @property
    def fast(self) -> bool:
        """Whether tokens may be split for a few calls that would run on one worker else."""
        return self.bytes_per_second >= FAST

    def to_json(self) -> dict:
        """As the pool's status shows it: plain values, in milliseconds and nanoseconds."""
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
