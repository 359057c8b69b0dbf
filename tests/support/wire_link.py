"""A sender and a receiver wire that share only bytes, and tensors to send, for tests/compression."""

from __future__ import annotations

import math

import torch
from compact_parallel.runtime.compression.residual_wire import OWN, make_wire
from compact_parallel.runtime.compression.wire import Spec, Tag
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from device import DEVICE

TAG = Tag("blocks.0.attn", "kv", (("cond", 0),))


class Recorder(Ledger):
    """A ledger that also keeps every error and warning in order."""

    def __init__(self):
        super().__init__()
        self.errors, self.bits, self.held, self.sentences, self.codecs = [], [], [], [], []

    def stream_error(self, relative_error, bits, codec):
        super().stream_error(relative_error, bits, codec)
        self.errors.append(relative_error)
        self.bits.append(bits)
        self.codecs.append(codec)

    def base_bytes(self, nbytes):
        super().base_bytes(nbytes)
        self.held.append(nbytes)

    def warn(self, sentence):
        super().warn(sentence)
        self.sentences.append(sentence)


class Link:
    """A sender (rank 0) and a receiver, each with a recording ledger."""

    def __init__(self, expected_calls=20, **config):
        self.config = CompressionConfig(**{"mode": "codec", "warmup_calls": 1, **config})
        self.ledger = Recorder()
        self.sender = make_wire(self.config, self.ledger, expected_calls)
        self.receiver = make_wire(self.config, Recorder(), expected_calls)

    def send(self, *tensors, tag=TAG):
        spec = Spec.of(tensors, tag)
        expected = self.receiver.expect(0, spec)
        payload = self.sender.pack(tensors, spec)
        parts = [part for part in payload if part is not None]
        assert all(part.dtype == torch.uint8 and part.is_contiguous() for part in parts)
        assert len(payload.first) == expected.nbytes
        assert payload.nbytes == expected.nbytes + expected.supplements_nbytes(payload.first) == sum(map(len, parts))
        self.ledger.sent(payload.nbytes, 2 * spec.values)
        return self.unpack(expected, payload, spec)

    def pack(self, *tensors, tag=TAG):
        """The message as its sender packs it."""
        return self.sender.pack(tensors, Spec.of(tensors, tag))

    def receive(self, payload, spec):
        """Receives a message of rank 0."""
        return self.unpack(self.receiver.expect(0, spec), payload, spec)

    def unpack(self, expected, payload, spec):
        """Unpacks into views of a larger tensor, as attention does."""
        device = payload.first.device
        out = [
            torch.full((b, n + 3, c), math.pi, dtype=spec.dtype, device=device)[:, 2 : n + 2] for b, n, c in spec.shapes
        ]
        expected.unpack(payload, out)
        return out

    def settle(self):
        """The end of a model call."""
        self.sender.settle()
        self.receiver.settle()

    def bases(self):
        """The streams of sender and receiver; the sender's under the receiver's keys."""
        own = {(*key[:4], 0, key[5]): stream for key, stream in self.sender._streams.items() if key[4] == OWN}
        return own, dict(self.receiver._streams)

    def assert_equal_bases(self):
        own, other = self.bases()
        assert own.keys() == other.keys()
        for key, stream in own.items():
            assert len(stream.bases) == len(other[key].bases)
            assert stream.codec == other[key].codec
            assert all(torch.equal(a.data, b.data) for a, b in zip(stream.bases, other[key].bases)), key


def drift(calls, n=96, c=160, rough=0.0, dtype=torch.float32, seed=0):
    """Tensors (1, N, C) of a smooth path with token and channel scales, and noise of relative size `rough`."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    scale = (torch.rand(n, 1, generator=generator) + 0.5) * torch.randn(c, generator=generator).exp()
    fixed, a, b = (torch.randn(n, c, generator=generator) * scale for _ in range(3))
    for i in range(calls):
        noise = rough * torch.randn(n, c, generator=generator) * scale
        yield (fixed + math.cos(3 * i / calls) * a + math.sin(3 * i / calls) * b + noise)[None].to(dtype)


def relative(x, x_hat):
    return float((x.double() - x_hat.double()).norm() / x.double().norm())
