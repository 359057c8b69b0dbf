"""Helpers of the attention and sharding tests: axes over real groups, a recording wire, and the relative error."""

from __future__ import annotations

import torch.distributed as dist
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.compression.wire import RawWire, Tag


def axes(rank, ulysses, ring):
    """(ulysses axis, ring axis) of `rank` in a world of ulysses x ring ranks; every rank creates every group."""
    found = {}
    rows = [[r * ulysses + u for u in range(ulysses)] for r in range(ring)]
    for name, lines in (("ulysses", rows), ("ring", [list(line) for line in zip(*rows)])):
        for line in lines:
            group = dist.new_group(line) if len(line) > 1 else None
            if rank in line:
                found[name] = Axis(name, tuple(line), line.index(rank), group)
    return found["ulysses"], found["ring"]


def batch_of(given):
    """The number of batch entries in the arguments of a model."""
    x = given.get("x", given.get("hidden_states"))
    return len(x[0] if isinstance(x, list) else x)


def tag_of(layer):
    """The tag of a layer for two batch entries."""
    return Tag(layer=layer, name="kv", slots=(("cond", 0), ("cond", 1)))


TAG = tag_of("layer")


class WatchedWire(RawWire):
    """A raw wire that records ("pack" or "unpack", source, text tokens) of each message."""

    def __init__(self):
        self.seen = []

    def pack(self, tensors, spec):
        self.seen.append(("pack", None, spec.tag.exact_tokens))
        return super().pack(tensors, spec)

    def expect(self, source, spec):
        return WatchedMessage(
            super().expect(source, spec), lambda: self.seen.append(("unpack", source, spec.tag.exact_tokens))
        )


class WatchedMessage:
    """An expected message that calls `tell` when it is unpacked."""

    def __init__(self, message, tell):
        self.nbytes, self.supplements_nbytes = message.nbytes, message.supplements_nbytes
        self._message, self._tell = message, tell

    def unpack(self, payload, out):
        self._tell()
        self._message.unpack(payload, out)


def relative_error(x, expected):
    return float((x - expected).double().norm() / expected.double().norm())
