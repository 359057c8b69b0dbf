"""Which memory of this process is mapped from files."""

from __future__ import annotations

from pathlib import Path


def mapped_from_file(address: int) -> bool:
    """Whether this address of the process is in a mapping of a file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = f"{line} -".split(maxsplit=5)
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            return name.startswith("/")
    return False
