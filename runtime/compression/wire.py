"""Tensors to bytes and back: all that attention knows of compression.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from .codecs import BY_NAME
from .header import RAW, Header, WireError
from .memory import BaseMemory
from .stream import ALIGNMENT, Plan, Shape, Stream, aligned, as_bytes

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

OWN = -1
"""Stands for this rank as the source of what it sends."""


@dataclass(frozen=True)
class Tag:
    """Names the tensors of one message. Equal on sender and receiver.

    A sender that gives different tensors of one layer to different peers gives them different names.
    """

    layer: str
    """Module path of the attention."""
    name: str
    """What is sent, for example "kv"."""
    slots: tuple[tuple[str, int], ...]
    """Per batch entry (cond, sample index): residual state never mixes between them."""
    exact_tokens: int = 0
    """The first so many tokens of the sender's chunk are text; they travel raw if the config says keep_text_exact."""


class Wire(Protocol):
    """The way of tensors over a link. One object per job and rank; it owns all state there is."""

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Tensor:
        """Tensors (B, N, C) each, of one dtype, as one contiguous 1-D uint8 payload."""

    def packed_size(self, source: int, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag) -> int:
        """Bytes of the next payload of rank `source`. Known without asking, as both ends hold the same state; ask
        before `unpack`, which advances it."""

    def unpack(
        self, source: int, payload: Tensor, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag
    ) -> list[Tensor]:
        """The tensors (B, N, C) that rank `source` packed, new. Raises WireError for an unexpected payload."""


class RawWire:
    """Bit-exact: the tensors' bytes one after the other."""

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Tensor:
        """See `Wire.pack`. The payload of one contiguous tensor is that tensor's own memory: no copy is made."""
        if len(tensors) == 1:
            return as_bytes(tensors[0])
        return torch.cat([as_bytes(x_BNC) for x_BNC in tensors])

    def packed_size(self, source: int, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag) -> int:
        """See `Wire.packed_size`."""
        return sum(map(prod, shapes)) * dtype.itemsize

    def unpack(
        self, source: int, payload: Tensor, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag
    ) -> list[Tensor]:
        """See `Wire.unpack`."""
        _require_size(payload, self.packed_size(source, shapes, dtype, tag), source, tag)
        parts = payload.split([prod(shape) * dtype.itemsize for shape in shapes])
        return [part.clone().view(dtype).view(shape) for part, shape in zip(parts, shapes)]


class ResidualWire:
    """Each tensor of each batch entry is a residual stream (see stream.py).

    Payload: one header of 24 bytes per stream, padded to 16, then the bodies in the same order: tensor by tensor, slot
    by slot. The ledger is told the seconds of "encode" and "decode", each stream's error and bits, and the bytes of the
    bases.
    """

    def __init__(self, config: CompressionConfig, ledger: Ledger) -> None:
        self._config = config
        self._ledger = ledger
        self._memory = BaseMemory(config.predictor, config.base_memory_gb)
        self._streams: dict[tuple, Stream] = {}

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Tensor:
        """See `Wire.pack`. NaN and Inf arrive as NaN; the stream that met them starts anew. Raises ValueError if the
        tensors do not fit the tag's slots."""
        with self._ledger.phase("encode"):
            shapes, dtype = [tuple(x_BNC.shape) for x_BNC in tensors], tensors[0].dtype
            streams = self._sending(shapes, dtype, tag)
            start = aligned(Header.SIZE * len(streams))
            nbytes = start + sum(stream.body_nbytes for stream in streams)
            payload = torch.zeros(nbytes, dtype=torch.uint8, device=tensors[0].device)
            headers = bytearray()
            entries = (x_NC for x_BNC in tensors for x_NC in x_BNC.contiguous())
            for stream, x_NC, body in zip(streams, entries, _bodies(payload, streams)):
                with self._memory.following(stream):
                    header, error = stream.encode(x_NC, body)
                headers += header.to_bytes()
                if x_NC.numel():
                    self._ledger.stream_error(error, 8 * (Header.SIZE + header.length) / x_NC.numel())
            payload[: len(headers)] = torch.frombuffer(headers, dtype=torch.uint8).to(payload.device)
        self._ledger.base_bytes(self._memory.held)
        return payload

    def packed_size(self, source: int, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag) -> int:
        """See `Wire.packed_size`."""
        streams = [self._streams.get(key) or Stream(key[-1]) for key in self._keys(source, shapes, dtype, tag)]
        return aligned(Header.SIZE * len(streams)) + sum(stream.body_nbytes for stream in streams)

    def unpack(
        self, source: int, payload: Tensor, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag
    ) -> list[Tensor]:
        """See `Wire.unpack`. The whole payload is checked before any state advances."""
        _require_size(payload, self.packed_size(source, shapes, dtype, tag), source, tag)
        self._memory.met(source)
        with self._ledger.phase("decode"):
            if payload.storage_offset() % ALIGNMENT:
                payload = payload.clone()
            keys = self._keys(source, shapes, dtype, tag)
            streams = [self._streams.setdefault(key, Stream(key[-1])) for key in keys]
            head = bytes(payload[: Header.SIZE * len(streams)].cpu().numpy())
            headers = [Header.from_bytes(head[i : i + Header.SIZE]) for i in range(0, len(head), Header.SIZE)]
            bodies = list(_bodies(payload, streams))
            for stream, header, body in zip(streams, headers, bodies):
                stream.check(header, body)
            tensors = [torch.empty(shape, dtype=dtype, device=payload.device) for shape in shapes]
            entries = (x_NC for x_BNC in tensors for x_NC in x_BNC)
            for stream, header, body, out_NC in zip(streams, headers, bodies, entries):
                with self._memory.following(stream):
                    stream.decode(header, body, out_NC)
        self._ledger.base_bytes(self._memory.held)
        return tensors

    def _keys(self, source: int, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag) -> list[tuple]:
        if len(set(tag.slots)) != len(tag.slots) or any(shape[0] != len(tag.slots) for shape in shapes):
            raise ValueError(f"{tag.layer} {tag.name}: each batch entry of {shapes} needs a slot, got {tag.slots}.")
        exact = tag.exact_tokens if self._config.keep_text_exact else 0
        return [
            (slot, tag.layer, tag.name, index, source, Shape(tokens, channels, dtype, exact))
            for index, (_, tokens, channels) in enumerate(shapes)
            for slot in tag.slots
        ]

    def _sending(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype, tag: Tag) -> list[Stream]:
        """The streams of a message of this rank; those that begin with it share one plan."""
        keys = self._keys(OWN, shapes, dtype, tag)
        new = [key for key in keys if key not in self._streams]
        if new:
            plan = self._plan(sum(key[-1].base_nbytes for key in new))
            self._streams |= {key: Stream(key[-1], plan) for key in new}
        return [self._streams[key] for key in keys]

    def _plan(self, base_nbytes: int) -> Plan:
        config = self._config
        order = self._memory.order(base_nbytes)
        if order is None:
            self._ledger.warn(
                f"Residual bases would need more than base_memory_gb = {config.base_memory_gb:g}; the tensors that do "
                "not fit are sent uncompressed. Raise it, or choose predictor auto, which then keeps fewer bases."
            )
            return Plan(codec=RAW, keep=0)
        return Plan(BY_NAME[config.codec].ident, order, config.warmup_calls, config.error_feedback)


def make_wire(config: CompressionConfig, ledger: Ledger) -> Wire:
    """The wire of one job on one rank."""
    return ResidualWire(config, ledger) if config.enabled else RawWire()


def _bodies(payload: Tensor, streams: Sequence[Stream]) -> Iterator[Tensor]:
    start = aligned(Header.SIZE * len(streams))
    return iter(payload[start:].split([stream.body_nbytes for stream in streams]))


def _require_size(payload: Tensor, nbytes: int, source: int, tag: Tag) -> None:
    if payload.numel() != nbytes:
        raise WireError(
            f"{tag.layer} {tag.name}: the payload of rank {source} has {payload.numel()} bytes where {nbytes} are "
            "expected: it was truncated, or the ranks do not see the same messages."
        )
