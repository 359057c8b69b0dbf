"""The wire that compresses: it sends each tensor as the residual to a prediction from earlier calls.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base_budget import BaseBudget
from .codecs import BY_IDENT, require_known
from .fused import decode_all, encode_all
from .header import RAW, Header, WireError
from .rate import Rate, make_rate
from .stream import ALIGNMENT, EIGHT_BITS, Sender, SendPolicy, Sent, Shape, Stream, checksums, read_with_checksums
from .wire import ExpectedMessage, Payload, RawWire, Spec, Tag, Wire, require_size

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
        self.ledger = ledger
        self.budget = BaseBudget(config.predictor, config.base_memory_gb)
        self._config = config
        self._rate = rate
        self._codecs = MappingProxyType({ident: codec.configured(config.rank) for ident, codec in BY_IDENT.items()})
        self._streams: dict[tuple, Stream] = {}
        self._messages: dict[tuple[int, Spec], list[Stream]] = {}
        """The streams of every message that was sent or received, by source and spec: they are looked up only once."""

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
        return _ResidualMessage(self, source, spec, streams)

    def first_nbytes(self, spec: Spec) -> int:
        """See `Wire.first_nbytes`."""
        first = self._first(spec.tag)
        streams = [Stream(key[-1], first, self._codecs) for key in self._keys(OWN, spec)]
        return Header.SIZE * len(streams) + sum(stream.body_nbytes for stream in streams)

    def _pack(self, tensors: Sequence[Tensor], spec: Spec, shared: Sequence[Tensor] | None) -> Payload:
        """Packs the tensors; `shared` (copies of them), if given, is overwritten with the values the receivers get."""
        ledger, budget = self.ledger, self.budget
        with ledger.phase("encode"):
            senders = self._senders(spec)
            sizes = [sender.body_nbytes for sender in senders]
            head = Header.SIZE * len(senders)
            first = torch.zeros(head + sum(sizes), dtype=torch.uint8, device=tensors[0].device)
            bodies = first[head:].split_with_sizes(sizes)
            entries = [x_NC for x_BNC in tensors for x_NC in x_BNC.unbind()]
            tasks = [sender.encoding(*given) for sender, *given in zip(senders, entries, bodies)]
            done = iter(encode_all([task for task in tasks if task is not None]))
            results = [None if task is None else next(done) for task in tasks]
            headers, supplements = bytearray(), []
            for place, (sender, total) in enumerate(zip(senders, checksums(first[head:], sizes))):
                before = sender.held, sender.keep
                sent = sender.encoded(tasks[place], results[place], bodies[place], total)
                budget.changed(sender, before)
                headers += sent.header.to_bytes()
                if sent.supplement is not None:
                    supplements.append(sent.supplement)
                if values := entries[place].numel():
                    ledger.stream_error(sent.error, 8 * sent.nbytes / values, self._name(sent))
                if not sent.header.finite:
                    self.not_finite(spec.tag, place)
                elif shared is not None and sent.x_hat_NC is not None:
                    index, slot = divmod(place, len(spec.tag.slots))
                    shared[index][slot, -len(sent.x_hat_NC) :] = sent.x_hat_NC
            first[:head] = torch.frombuffer(headers, dtype=torch.uint8).to(first.device, non_blocking=True)
        ledger.base_bytes(budget.held)
        return Payload(first, torch.cat(supplements) if supplements else None)

    def not_finite(self, tag: Tag, place: int) -> None:
        """Records that the tensor of the message's stream number `place` held NaN or Inf."""
        self.ledger.not_finite(f"{tag.layer} ({tag.name}, tensor {place // len(tag.slots)})")

    def _name(self, sent: Sent) -> str:
        number = sent.header.codec
        return "uncompressed" if number == RAW else self._codecs[number].name

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


class _ResidualMessage:
    """See `ExpectedMessage`. The whole payload is checked before any state advances."""

    def __init__(self, wire: ResidualWire, source: int, spec: Spec, streams: list[Stream]) -> None:
        self._wire, self._source, self._spec, self._streams = wire, source, spec, streams
        self._body_sizes = [stream.body_nbytes for stream in streams]
        self._head = Header.SIZE * len(streams)
        self.nbytes = self._head + sum(self._body_sizes)
        self._read: tuple[Tensor, list[Header], Sequence[Tensor]] | None = None
        """A first part whose headers and bodies were checked, and these."""

    def supplements_nbytes(self, first: Tensor) -> int:
        """See `ExpectedMessage.supplements_nbytes`."""
        return sum(self._supplement_sizes(self._parts(first)[0])) if self._wire.has_supplements else 0

    def unpack(self, payload: Payload, out: Sequence[Tensor]) -> None:
        """See `ExpectedMessage.unpack`."""
        wire, streams, tag = self._wire, self._streams, self._spec.tag
        require_size(payload.first.numel(), self.nbytes, self._source, tag)
        wire.budget.met(self._source)
        with wire.ledger.phase("decode"):
            headers, bodies = self._parts(payload.first)
            supplements = self._supplements(headers, payload.supplements)
            entries = [x_NC for x_BNC in out for x_NC in x_BNC.unbind()]
            tasks = [stream.decoding(*given) for stream, *given in zip(streams, headers, bodies, entries)]
            restored = iter(decode_all([task for task in tasks if task is not None]))
            for place, (stream, header) in enumerate(zip(streams, headers)):
                before = stream.held, stream.keep
                x_hat_NC = None if tasks[place] is None else next(restored)
                stream.decoded(header, x_hat_NC, supplements[place], entries[place])
                wire.budget.changed(stream, before)
                if not header.finite:
                    wire.not_finite(tag, place)
        wire.ledger.base_bytes(wire.budget.held)

    def _parts(self, first: Tensor) -> tuple[list[Header], Sequence[Tensor]]:
        """Headers and bodies of the first part. Raises WireError unless each is intact and next in its stream."""
        if self._read is None or self._read[0] is not first:
            held = first.clone() if first.storage_offset() % ALIGNMENT else first
            head, totals = read_with_checksums(held, self._head, self._body_sizes)
            headers = Header.all_from_bytes(head)
            for stream, header, total in zip(self._streams, headers, totals):
                stream.check(header, total)
            self._read = first, headers, held[self._head :].split_with_sizes(self._body_sizes)
        return self._read[1:]

    def _supplement_sizes(self, headers: Sequence[Header]) -> list[int]:
        return [stream.supplement_nbytes(header) for stream, header in zip(self._streams, headers)]

    def _supplements(self, headers: Sequence[Header], given: Tensor | None) -> Sequence[Tensor | None]:
        """The supplement of each stream, if it has one. Raises WireError unless they are those of the headers."""
        sizes, tag = self._supplement_sizes(headers), self._spec.tag
        require_size(0 if given is None else given.numel(), sum(sizes), self._source, tag)
        if given is None:
            return [None] * len(sizes)
        held = given.clone() if given.storage_offset() % ALIGNMENT else given
        if [header.supplement_checksum for header in headers] != checksums(held, sizes):
            raise WireError(f"{tag.layer} {tag.name}: a supplement of rank {self._source} was damaged on the way.")
        return held.split_with_sizes(sizes)


def make_wire(config: CompressionConfig, ledger: Ledger, expected_calls: int) -> Wire:
    """The wire of one job on one rank; `expected_calls` is how often the sampler will call the model.

    Raises ConfigError for a codec that does not exist.
    """
    require_known(config)
    return ResidualWire(config, ledger, make_rate(config, ledger, expected_calls)) if config.enabled else RawWire()
