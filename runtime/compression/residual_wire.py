"""The wire that compresses: it sends each tensor as the residual to a prediction from earlier calls.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from . import header as layout
from . import on_device, quantise, records
from .base_budget import BaseBudget
from .checksum import checksums
from .codecs import BY_IDENT, require_known
from .header import RAW, Header, WireError
from .on_device import Parts
from .quantise import Coded, Encoding
from .rate import Rate, make_rate
from .stream import ALIGNMENT, EIGHT_BITS, Sender, SendPolicy, Shape, Stream
from .wire import ExpectedMessage, Payload, RawWire, Spec, Tag, Wire, require_size

if TYPE_CHECKING:
    from ..config import CompressionConfig
    from ..report.ledger import Ledger

OWN = -1
"""The source in the key of a stream that this rank sends."""


class _Unsettled(NamedTuple):
    """A message whose records lie on the device, and what is to be done once they are read."""

    records: Tensor
    settle: Callable[[bytes], None]


class ResidualWire:
    """Packs and unpacks messages in which each tensor of each batch entry is a residual stream (see stream.py).

    First part: one header of 32 bytes per stream, then the bodies in the same order: tensor by tensor, slot by slot.
    Second part: the supplements of those streams whose header announces one. The ledger records the seconds of "encode"
    and "decode", each stream's error and bits, and the bytes of the bases.

    On a GPU neither packing nor unpacking makes the host wait: what depends on values is read for all messages at once,
    in `settle`, at the latest before a stream is used again. But a receiver reads the headers of a stream's first two
    messages at once (see `Stream.young`), and with a bound on the error both ends read every message.
    """

    def __init__(self, config: CompressionConfig, ledger: Ledger, rate: Rate) -> None:
        self.ledger = ledger
        self.budget = BaseBudget(config.predictor, config.base_memory_gb)
        self._config = config
        self._rate = rate
        self._codecs = MappingProxyType({ident: codec.configured(config.rank) for ident, codec in BY_IDENT.items()})
        self._streams: dict[tuple, Stream] = {}
        self._messages: dict[tuple[int, Spec], list[Stream]] = {}
        """The streams of every message that was sent or received, by source and spec: they are looked up only once."""
        self._unsettled: list[_Unsettled] = []

    @property
    def has_supplements(self) -> bool:
        """Whether a message may have a second part."""
        return self._rate.bound is not None

    def pack(self, tensors: Sequence[Tensor], spec: Spec) -> Payload:
        """See `Wire.pack`. If a tensor holds NaN or Inf, it arrives as NaN and its stream starts anew. Raises
        ValueError if the tensors do not fit the tag's slots."""
        return self._pack(tensors, spec, None)

    def pack_shared(self, tensors: Sequence[Tensor], spec: Spec) -> tuple[Payload, list[Tensor]]:
        """See `Wire.pack_shared`."""
        shared = [x_BNC.clone(memory_format=torch.contiguous_format) for x_BNC in tensors]
        return self._pack(tensors, spec, shared), shared

    def expect(self, source: int, spec: Spec) -> ExpectedMessage:
        """See `Wire.expect`."""
        streams = self._messages.get((source, spec))
        if streams is None:
            first = self._first(spec.tag)
            keys = self._keys(source, spec)
            streams = [self._streams.setdefault(key, Stream(key[-1], first, self._codecs)) for key in keys]
            self._messages[source, spec] = streams
        self._settle_if_open(streams)
        return _ResidualMessage(self, source, spec, streams)

    def first_nbytes(self, spec: Spec) -> int:
        """See `Wire.first_nbytes`."""
        first = self._first(spec.tag)
        streams = [Stream(key[-1], first, self._codecs) for key in self._keys(OWN, spec)]
        return Header.SIZE * len(streams) + sum(stream.body_nbytes for stream in streams)

    def settle(self) -> None:
        """See `Wire.settle`."""
        if not self._unsettled:
            return
        unsettled, self._unsettled = self._unsettled, []
        try:
            for message, data in zip(unsettled, records.read([message.records for message in unsettled])):
                message.settle(data)
        except WireError:
            self._streams.clear()
            self._messages.clear()
            raise

    def settle_later(self, found: Tensor, settle: Callable[[bytes], None]) -> None:
        """Keeps the records of a message for `settle`, which will call the given function with their bytes."""
        self._unsettled.append(_Unsettled(found, settle))

    def _settle_if_open(self, streams: Sequence[Stream]) -> None:
        if any(stream.open for stream in streams):
            self.settle()

    def _pack(self, tensors: Sequence[Tensor], spec: Spec, shared: Sequence[Tensor] | None) -> Payload:
        """Packs the tensors; `shared` (copies of them), if given, is overwritten with the values the receivers get."""
        with self.ledger.phase("encode"):
            senders = self._senders(spec)
            sizes = [sender.body_nbytes for sender in senders]
            head = Header.SIZE * len(senders)
            first = torch.empty(head + sum(sizes), dtype=torch.uint8, device=tensors[0].device)
            parts = Parts.of(first, sizes)
            entries = [x_NC for x_BNC in tensors for x_NC in x_BNC.unbind()]
            tasks = [sender.encoding(*given) for sender, *given in zip(senders, entries, parts.each())]
            message = _Outgoing(spec.tag, senders, tasks, [x_NC.numel() for x_NC in entries])
            if first.device.type == "cpu":
                coded = [None if task is None else quantise.encode(task) for task in tasks]
                supplements = self._encoded(message, coded, checksums(parts.bodies, sizes), parts, shared)
            elif self.has_supplements:
                supplements = self._encoded(message, *self._encoded_now(message, parts), parts, shared)
            else:
                supplements = self._encoded_later(message, parts, shared)
        self.ledger.base_bytes(self.budget.held)
        return Payload(first, torch.cat(supplements) if supplements else None)

    def _encoded(
        self,
        message: _Outgoing,
        coded: Sequence[Coded | None],
        totals: Sequence[int],
        parts: Parts,
        shared: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        """Writes the headers of a message, of which all is known, and advances its streams. Returns the supplements."""
        headers, supplements = bytearray(), []
        for place, (sender, task) in enumerate(zip(message.senders, message.tasks)):
            sent = sender.encoded(task, coded[place], totals[place])
            self.budget.changed(sender)
            headers += sent.header.to_bytes()
            if sent.supplement is not None:
                supplements.append(sent.supplement)
            self._record(message.tag, place, sent.header, sent.error, 8 * sent.nbytes, message.values)
            if shared is not None and sent.x_hat_NC is not None:
                message.share(place, sent.x_hat_NC, shared)
        parts.headers.copy_(torch.frombuffer(headers, dtype=torch.uint8), non_blocking=True)
        return supplements

    def _encoded_now(self, message: _Outgoing, parts: Parts) -> tuple[list[Coded | None], list[int]]:
        """Encodes a message on its device. Returns the results and the checksums of the bodies: the host waits once."""
        unknown = Header(RAW, 0, RAW, 0, False, 0, 0, False, 0.0, 0, 0, 0).to_bytes() * len(message.senders)
        x_hats, found = on_device.encode_all(message.tasks, parts, unknown)
        found[:, : layout.WORDS] = parts.words
        sent = records.sent(records.read([found])[0])
        coded = [
            None if x_hat_NC is None else Coded(x_hat_NC, header.finite, header.predicted_from, header.k, *errors)
            for x_hat_NC, (header, *errors) in zip(x_hats, sent)
        ]
        return coded, [record.header.checksum for record in sent]

    def _encoded_later(self, message: _Outgoing, parts: Parts, shared: Sequence[Tensor] | None) -> list[Tensor]:
        """Encodes a message on its device, whose results are read in `settle`. Returns no supplements."""
        templates = [sender.template(task) for sender, task in zip(message.senders, message.tasks)]
        data = b"".join(template.to_bytes() for template in templates)
        x_hats, found = on_device.encode_all(message.tasks, parts, data)
        for place, (sender, task, x_hat_NC) in enumerate(zip(message.senders, message.tasks, x_hats)):
            sender.hold(x_hat_NC, task)
            self.budget.changed(sender)
            if shared is not None and x_hat_NC is not None:
                finite = (parts.words[place, layout.FLAGS] & layout.FINITE) > 0
                message.share(place, torch.where(finite, x_hat_NC, torch.nan), shared)
        self.settle_later(found, partial(self._sent, message.tag, message.senders, message.values))
        return []

    def _sent(self, tag: Tag, senders: Sequence[Sender], values: Sequence[int], data: bytes) -> None:
        """Advances the streams of a message that was sent by its records."""
        for place, (sender, record) in enumerate(zip(senders, records.sent(data))):
            sender.settle(record.header)
            self.budget.changed(sender)
            self._record(tag, place, record.header, record.error, 8 * (Header.SIZE + record.header.length), values)

    def _record(self, tag: Tag, place: int, header: Header, error: float, bits: int, values: Sequence[int]) -> None:
        name = "uncompressed" if header.codec == RAW else self._codecs[header.codec].name
        if values[place]:
            self.ledger.stream_error(error, bits / values[place], name)
        if not header.finite:
            self.not_finite(tag, place)

    def not_finite(self, tag: Tag, place: int) -> None:
        """Records that the tensor of the message's stream number `place` held NaN or Inf."""
        self.ledger.not_finite(f"{tag.layer} ({tag.name}, tensor {place // len(tag.slots)})")

    def _keys(self, source: int, spec: Spec) -> list[tuple]:
        tag, shapes = spec.tag, spec.shapes
        if len(set(tag.slots)) != len(tag.slots) or any(shape[0] != len(tag.slots) for shape in shapes):
            raise ValueError(f"{tag.layer} {tag.name}: each batch entry of {shapes} needs a slot, got {tag.slots}.")
        exact = tag.exact_tokens if self._config.keep_text_exact else 0
        return [
            (slot, tag.layer, tag.name, index, source, Shape(tokens, channels, spec.dtype, exact))
            for index, (_, tokens, channels) in enumerate(shapes)
            for slot in tag.slots
        ]

    def _first(self, tag: Tag) -> int:
        return EIGHT_BITS if tag.sensitive else self._rate.first

    def _senders(self, spec: Spec) -> list[Sender]:
        """The streams of a message that this rank sends; those that begin with it share one policy."""
        senders = self._messages.get((OWN, spec))
        if senders is None:
            keys, first = self._keys(OWN, spec), self._first(spec.tag)
            if new := [key for key in keys if key not in self._streams]:
                policy = self._policy([key[-1] for key in new], spec.tag)
                self._streams |= {key: Sender(key[-1], first, self._codecs, self._rate, policy) for key in new}
            senders = self._messages[OWN, spec] = [self._streams[key] for key in keys]
        self._settle_if_open(senders)
        for sender in senders:
            if sender.calls == 1 and sender.keep:
                sender.policy = sender.policy._replace(keeping=self.budget.settle())
        return senders

    def _policy(self, shapes: Sequence[Shape], tag: Tag) -> SendPolicy:
        config = self._config
        keeping = self.budget.start(shapes)
        eight_bits = config.predictor != "none" and not keeping.bases
        if eight_bits:
            self.ledger.warn(
                f"Residual bases would need more than base_memory_gb = {config.base_memory_gb:g}; the tensors that do "
                "not fit are sent in 8 bits. Raise it, or choose predictor auto, which then keeps fewer bases."
            )
        return SendPolicy(keeping, config.error_feedback, eight_bits or tag.sensitive)


class _Outgoing(NamedTuple):
    """A message that is being packed: its streams, and the task and the number of values of each."""

    tag: Tag
    senders: Sequence[Sender]
    tasks: Sequence[Encoding | None]
    values: Sequence[int]

    def share(self, place: int, x_hat_NC: Tensor, shared: Sequence[Tensor]) -> None:
        """Writes the coded tokens of stream number `place` into `shared`, (B, N, C) each, as the receivers get them."""
        index, slot = divmod(place, len(self.tag.slots))
        shared[index][slot, -len(x_hat_NC) :] = x_hat_NC


class _ResidualMessage:
    """See `ExpectedMessage`. A payload whose headers are read at once is checked before any state advances."""

    def __init__(self, wire: ResidualWire, source: int, spec: Spec, streams: list[Stream]) -> None:
        self._wire, self._source, self._spec, self._streams = wire, source, spec, streams
        self._body_sizes = [stream.body_nbytes for stream in streams]
        self._head = Header.SIZE * len(streams)
        self.nbytes = self._head + sum(self._body_sizes)
        self._read: tuple[Tensor, list[Header], Parts] | None = None
        """A first part whose headers and bodies were checked, and these."""

    def supplements_nbytes(self, first: Tensor) -> int:
        """See `ExpectedMessage.supplements_nbytes`."""
        return sum(self._supplement_sizes(self._checked(first)[0])) if self._wire.has_supplements else 0

    def unpack(self, payload: Payload, out: Sequence[Tensor]) -> None:
        """See `ExpectedMessage.unpack`."""
        wire = self._wire
        require_size(payload.first.numel(), self.nbytes, self._source, self._spec.tag)
        wire.budget.met(self._source)
        entries = [x_NC for x_BNC in out for x_NC in x_BNC.unbind()]
        on_host = payload.first.device.type == "cpu"
        with wire.ledger.phase("decode"):
            if on_host or wire.has_supplements or any(stream.young for stream in self._streams):
                self._decode(payload, entries)
            else:
                self._decode_later(payload.first, entries)
        wire.ledger.base_bytes(wire.budget.held)

    def _decode(self, payload: Payload, entries: Sequence[Tensor]) -> None:
        """Reads the headers first, for which the host waits once."""
        wire, streams = self._wire, self._streams
        headers, parts = self._checked(payload.first)
        supplements = self._supplements(headers, payload.supplements)
        given = zip(streams, parts.each(), entries, headers)
        tasks = [stream.decoding(body, entry, header.keep) for stream, body, entry, header in given]
        tasks = [task if header.finite else None for task, header in zip(tasks, headers)]
        if payload.first.device.type == "cpu":
            x_hats = [
                None if task is None else quantise.decode(task, header.predicted_from, header.k)
                for task, header in zip(tasks, headers)
            ]
        else:
            x_hats, _ = on_device.decode_all(tasks, parts)
        for place, (stream, header, x_hat_NC) in enumerate(zip(streams, headers, x_hats)):
            stream.decoded(header, x_hat_NC, supplements[place], entries[place])
            wire.budget.changed(stream)
            if not header.finite:
                wire.not_finite(self._spec.tag, place)

    def _decode_later(self, first: Tensor, entries: Sequence[Tensor]) -> None:
        """Decodes by the headers as they lie on the device; they are checked in `settle`."""
        parts = Parts.of(_from_start(first), self._body_sizes)
        given = zip(self._streams, parts.each(), entries)
        tasks = [stream.decoding(body, entry) for stream, body, entry in given]
        x_hats, found = on_device.decode_all(tasks, parts)
        for stream, x_hat_NC in zip(self._streams, x_hats):
            stream.hold(x_hat_NC)
            self._wire.budget.changed(stream)
        self._wire.settle_later(found, self._received)

    def _received(self, data: bytes) -> None:
        """Advances the streams by the message's records. Raises WireError if it was damaged, or was another one."""
        wire, tag = self._wire, self._spec.tag
        for place, (stream, record) in enumerate(zip(self._streams, records.received(data))):
            try:
                header = Header.from_bytes(record.header)
                stream.settle(header, record.total)
            except WireError as error:
                raise WireError(f"{tag.layer} {tag.name}, from rank {self._source}: {error}") from error
            wire.budget.changed(stream)
            if not header.finite:
                wire.not_finite(tag, place)

    def _checked(self, first: Tensor) -> tuple[list[Header], Parts]:
        """Headers and bodies of the first part. Raises WireError unless each is intact and next in its stream."""
        if self._read is None or self._read[0] is not first:
            parts = Parts.of(_from_start(first), self._body_sizes)
            found = records.received(records.read([on_device.received_records(parts)])[0])
            headers = Header.all_from_bytes(b"".join(record.header for record in found))
            for stream, header, record in zip(self._streams, headers, found):
                stream.check(header, record.total)
            self._read = first, headers, parts
        return self._read[1:]

    def _supplement_sizes(self, headers: Sequence[Header]) -> list[int]:
        return [stream.supplement_nbytes(header) for stream, header in zip(self._streams, headers)]

    def _supplements(self, headers: Sequence[Header], given: Tensor | None) -> Sequence[Tensor | None]:
        """The supplement of each stream, if it has one. Raises WireError unless they are those of the headers."""
        sizes, tag = self._supplement_sizes(headers), self._spec.tag
        require_size(0 if given is None else given.numel(), sum(sizes), self._source, tag)
        if given is None:
            return [None] * len(sizes)
        held = _from_start(given)
        if [header.supplement_checksum for header in headers] != checksums(held, sizes):
            raise WireError(f"{tag.layer} {tag.name}: a supplement of rank {self._source} was damaged on the way.")
        return held.split_with_sizes(sizes)


def _from_start(part: Tensor) -> Tensor:
    """A part of a message that starts at a multiple of ALIGNMENT."""
    return part.clone() if part.storage_offset() % ALIGNMENT else part


def make_wire(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Wire:
    """The wire of one job on one rank; `expected_calls` is how often the sampler will call the model.

    Raises ConfigError for a codec that does not exist.
    """
    require_known(config)
    return ResidualWire(config, ledger, make_rate(config, ledger, expected_calls)) if config.enabled else RawWire()
