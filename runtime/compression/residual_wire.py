"""The wire that compresses: it sends each tensor as the residual to a prediction from earlier calls.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .codecs import BY_IDENT, require_known
from .fused import decode_all, encode_all
from .header import RAW, Header, WireError
from .memory import BaseMemory
from .rate import Rate, make_rate
from .stream import ALIGNMENT, EIGHT_BITS, Plan, Sender, Sent, Shape, Stream, checksums
from .wire import Payload, RawWire, Shapes, Tag, Wire, nothing, require_size

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

OWN = -1
"""The source in the key of a stream that this rank sends."""


class ResidualWire:
    """Packs and unpacks messages in which each tensor of each batch entry is a residual stream (see stream.py).

    First part: one header of 32 bytes per stream, then the bodies in the same order: tensor by tensor, slot by slot.
    Second part: the supplements of those streams whose header announces one. The ledger records the seconds of "encode"
    and "decode", each stream's error and bits, and the bytes of the bases.
    """

    def __init__(self, config: CompressionConfig, ledger: Ledger, rate: Rate) -> None:
        self._config = config
        self._ledger = ledger
        self._rate = rate
        self._memory = BaseMemory(config.predictor, config.base_memory_gb)
        self._codecs = MappingProxyType({ident: codec.configured(config.rank) for ident, codec in BY_IDENT.items()})
        self._streams: dict[tuple, Stream] = {}

    def pack(self, tensors: Sequence[Tensor], tag: Tag) -> Payload:
        """See `Wire.pack`. If a tensor holds NaN or Inf, it arrives as NaN and its stream starts anew. Raises
        ValueError if the tensors do not fit the tag's slots."""
        return self._pack(tensors, tag, None)

    def pack_shared(self, tensors: Sequence[Tensor], tag: Tag) -> tuple[Payload, list[Tensor]]:
        """See `Wire.pack_shared`."""
        shared = [x_BNC.clone(memory_format=torch.contiguous_format) for x_BNC in tensors]
        return self._pack(tensors, tag, shared), shared

    def packed_size(self, source: int, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """See `Wire.packed_size`."""
        streams = [self._receiving(key, tag) for key in self._keys(source, shapes, dtype, tag)]
        return Header.SIZE * len(streams) + sum(stream.body_nbytes for stream in streams)

    def more_size(self, source: int, first: Tensor, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> int:
        """See `Wire.more_size`."""
        if self._rate.bound is None:
            return 0
        streams = [self._receiving(key, tag) for key in self._keys(source, shapes, dtype, tag)]
        headers, _ = _parts(first, streams)
        return sum(stream.supplement_nbytes(header) for stream, header in zip(streams, headers))

    def unpack(self, source: int, payload: Payload, out: Sequence[Tensor], tag: Tag) -> None:
        """See `Wire.unpack`. The whole payload is checked before any state advances."""
        shapes, dtype = [tuple(x_BNC.shape) for x_BNC in out], out[0].dtype
        require_size(payload.first, self.packed_size(source, shapes, dtype, tag), source, tag)
        self._memory.met(source)
        with self._ledger.phase("decode"):
            keys = self._keys(source, shapes, dtype, tag)
            streams = [self._receiving(key, tag) for key in keys]
            headers, bodies = _parts(payload.first, streams)
            sizes = [stream.supplement_nbytes(header) for stream, header in zip(streams, headers)]
            require_size(payload.more, sum(sizes), source, tag)
            more = payload.more.clone() if payload.more.storage_offset() % ALIGNMENT else payload.more
            supplements = more.split(sizes)
            if [header.supplement_checksum for header in headers] != checksums(supplements):
                raise WireError(f"{tag.layer} {tag.name}: a supplement of rank {source} was damaged on the way.")
            self._streams |= dict(zip(keys, streams))
            entries = [x_NC for x_BNC in out for x_NC in x_BNC]
            tasks = [stream.decoding(*given) for stream, *given in zip(streams, headers, bodies, entries)]
            restored = iter(decode_all([task for task in tasks if task is not None]))
            for place, (stream, header) in enumerate(zip(streams, headers)):
                before = stream.held, stream.keep
                x_hat_NC = None if tasks[place] is None else next(restored)
                stream.decoded(header, x_hat_NC, supplements[place], entries[place])
                self._memory.changed(stream, before)
                if not header.finite:
                    self._not_finite(tag, place)
        self._ledger.base_bytes(self._memory.held)

    def _pack(self, tensors: Sequence[Tensor], tag: Tag, shared: Sequence[Tensor] | None) -> Payload:
        """Packs the tensors; `shared` (copies of them), if given, is overwritten with the values the receivers get."""
        with self._ledger.phase("encode"):
            shapes, dtype = [tuple(x_BNC.shape) for x_BNC in tensors], tensors[0].dtype
            senders = self._sending(shapes, dtype, tag)
            nbytes = Header.SIZE * len(senders) + sum(sender.body_nbytes for sender in senders)
            first = torch.zeros(nbytes, dtype=torch.uint8, device=tensors[0].device)
            headers, supplements = bytearray(), []
            entries = [x_NC for x_BNC in tensors for x_NC in x_BNC]
            bodies = _bodies(first, senders)
            tasks = [sender.encoding(x_NC, body) for sender, x_NC, body in zip(senders, entries, bodies)]
            done = iter(encode_all([task for task in tasks if task is not None]))
            results = [None if task is None else next(done) for task in tasks]
            for place, (sender, body, total) in enumerate(zip(senders, bodies, checksums(bodies))):
                before = sender.held, sender.keep
                sent = sender.encoded(tasks[place], results[place], body, total)
                self._memory.changed(sender, before)
                headers += sent.header.to_bytes()
                supplements.append(sent.supplement)
                values = entries[place].numel()
                if values:
                    nbytes = Header.SIZE + sent.header.length + len(sent.supplement)
                    self._ledger.stream_error(sent.error, 8 * nbytes / values, self._name(sent))
                if not sent.header.finite:
                    self._not_finite(tag, place)
                elif shared is not None and results[place] is not None:
                    index, slot = divmod(place, len(tag.slots))
                    shared[index][slot, -len(sent.x_hat_NC) :] = sent.x_hat_NC
            first[: len(headers)] = torch.frombuffer(headers, dtype=torch.uint8).to(first.device)
        self._ledger.base_bytes(self._memory.held)
        more = [supplement for supplement in supplements if len(supplement)]
        return Payload(first, torch.cat(more) if more else nothing(first.device))

    def _name(self, sent: Sent) -> str:
        number = sent.header.codec
        return "uncompressed" if number == RAW else self._codecs[number].name

    def _not_finite(self, tag: Tag, place: int) -> None:
        self._ledger.not_finite(f"{tag.layer} ({tag.name}, tensor {place // len(tag.slots)})")

    def _keys(self, source: int, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> list[tuple]:
        if len(set(tag.slots)) != len(tag.slots) or any(shape[0] != len(tag.slots) for shape in shapes):
            raise ValueError(f"{tag.layer} {tag.name}: each batch entry of {shapes} needs a slot, got {tag.slots}.")
        exact = tag.exact_tokens if self._config.keep_text_exact else 0
        return [
            (slot, tag.layer, tag.name, index, source, Shape(tokens, channels, dtype, exact))
            for index, (_, tokens, channels) in enumerate(shapes)
            for slot in tag.slots
        ]

    def _receiving(self, key: tuple, tag: Tag) -> Stream:
        return self._streams.get(key) or Stream(key[-1], self._first(tag), self._codecs)

    def _first(self, tag: Tag) -> int:
        return EIGHT_BITS if tag.sensitive else self._rate.first

    def _sending(self, shapes: Shapes, dtype: torch.dtype, tag: Tag) -> list[Sender]:
        """The streams of a message that this rank sends; those that begin with it share one plan."""
        keys = self._keys(OWN, shapes, dtype, tag)
        new = [key for key in keys if key not in self._streams]
        if new:
            plan = self._plan([key[-1] for key in new], tag)
            self._streams |= {key: Sender(key[-1], self._first(tag), self._codecs, self._rate, plan) for key in new}
        senders = [self._streams[key] for key in keys]
        for sender in senders:
            if sender.calls == 1 and sender.keep:
                sender.plan = replace(sender.plan, keeping=self._memory.settle())
        return senders

    def _plan(self, shapes: Sequence[Shape], tag: Tag) -> Plan:
        config = self._config
        keeping = self._memory.start(shapes)
        eight_bits = config.predictor != "none" and not keeping.bases
        if eight_bits:
            self._ledger.warn(
                f"Residual bases would need more than base_memory_gb = {config.base_memory_gb:g}; the tensors that do "
                "not fit are sent in 8 bits. Raise it, or choose predictor auto, which then keeps fewer bases."
            )
        return Plan(keeping, config.error_feedback, eight_bits or tag.sensitive)


def make_wire(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Wire:
    """The wire of one job on one rank; `expected_calls` is how often the sampler will call the model.

    Raises ConfigError for a codec that does not exist.
    """
    require_known(config)
    return ResidualWire(config, ledger, make_rate(config, ledger, expected_calls)) if config.enabled else RawWire()


def _parts(first: Tensor, streams: Sequence[Stream]) -> tuple[list[Header], list[Tensor]]:
    """Headers and bodies of a message's first part. Raises WireError unless each is intact and next in its stream."""
    first = first.clone() if first.storage_offset() % ALIGNMENT else first
    head = bytes(first[: Header.SIZE * len(streams)].cpu().numpy())
    headers = [Header.from_bytes(head[i : i + Header.SIZE]) for i in range(0, len(head), Header.SIZE)]
    bodies = _bodies(first, streams)
    for stream, header, total in zip(streams, headers, checksums(bodies)):
        stream.check(header, total)
    return headers, bodies


def _bodies(first: Tensor, streams: Sequence[Stream]) -> list[Tensor]:
    return list(first[Header.SIZE * len(streams) :].split([stream.body_nbytes for stream in streams]))
