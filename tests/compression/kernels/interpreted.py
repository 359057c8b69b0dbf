"""The kernels against the PyTorch reference, which tests/gpu runs on a card, test_interpreted.py on the interpreter:

cd tests && TRITON_INTERPRET=1 python -m pytest -q compression/kernels/interpreted.py
"""

import contextlib
import math
from itertools import product

import pytest
import torch
from compact_parallel.runtime.compression.bitpack import pack_planes
from compact_parallel.runtime.compression.checksum import checksums
from compact_parallel.runtime.compression.codecs import BY_NAME
from compact_parallel.runtime.compression.codecs import lloyd_max as reference
from compact_parallel.runtime.compression.header import NONE, Header
from compact_parallel.runtime.compression.kernels import lloyd_max_kernels, ops
from compact_parallel.runtime.compression.kernels.fit import fit as fitted
from compact_parallel.runtime.compression.kernels.fit import write
from compact_parallel.runtime.compression.kernels.message import ALIGNMENT, make_message
from compact_parallel.runtime.compression.kernels.scales import Scales, measure
from compact_parallel.runtime.compression.predict import fit, float32, predict
from compact_parallel.runtime.compression.records import read, received, sent
from device import DEVICE
from simulated_card import SimulatedCard
from wire_link import Link, drift, relative

LLOYD_MAX = ("1bit", "2bit", "3bit", "4bit")
NAMES = (*LLOYD_MAX, "int8", "fp8")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((1, 1), (9, 65), (17, 3), (2, 1100))
"""Odd, smaller and larger than what a program of the kernels takes at once."""
CASES = [
    *product(("2bit", "int8"), DTYPES, (0, 1, 2)),
    *((name, dtype, order) for name in ("1bit", "3bit", "4bit", "fp8") for dtype, order in zip(DTYPES, (1, 2, 0))),
]
"""(codec, dtype, bases that predict)."""
ULP = 2.0**-7


@pytest.fixture(autouse=True)
def tensors_on_the_device():
    """What a test makes is where the kernels run."""
    with torch.device(DEVICE):
        yield


class Sender:
    """What the sender of a message of `count` tensors holds: rows of x lie apart, bodies share one buffer."""

    def __init__(self, count, tokens, channels, dtype, order, codec, seed=0):
        generator = torch.Generator(DEVICE).manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        self.codec, self.shape, self.dtype = codec, (tokens, channels), dtype
        scale = normal(tokens, 1).exp() * normal(channels).exp()
        wide = torch.zeros(count, tokens, channels + 3, dtype=dtype)
        self.xs = list(wide[:, :, 1 : channels + 1])
        tensors = [[scale * normal(*self.shape) for _ in range(3)] for _ in range(count)]
        for x, (a, b, c) in zip(self.xs, tensors):
            x.copy_(a + 0.5 * b + 0.1 * c)
        self.bases = [a.to(dtype) for a, _, _ in tensors] if order > 0 else []
        self.previous = [(a - b).to(dtype) for a, b, _ in tensors] if order > 1 else []
        self.order = order
        room = -(-codec.nbytes(*self.shape) // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self.buffer = torch.full((count * room,), 0xA5, dtype=torch.uint8)
        self.bodies = list(self.buffer.view(count, room))
        self.headers = torch.full((count * Header.SIZE,), 0xA5, dtype=torch.uint8)
        self.before = [tuple(base.clone() for base in bases) for bases in zip(*self._held)] or [()] * count

    @property
    def _held(self):
        return [bases for bases in (self.bases, self.previous) if bases]

    @property
    def state(self):
        """The tensors that take the new bases."""
        return self.previous or self.bases

    @property
    def templates(self):
        """What is known of the headers."""
        return b"".join(
            Header(self.codec.ident, 0, 7, 2, False, index, NONE, True, 0.0, 48, 0, 0).to_bytes()
            for index in range(len(self.xs))
        )

    def encode(self):
        """The records."""
        held = self.bases, self.previous, self.bodies, self.headers, self.templates
        return sent(read([ops.encode(self.xs, *held, order=self.order, codec=self.codec.ident)])[0])

    def message(self):
        held = self.bases, self.previous, self.bodies, self.headers
        return make_message(self.xs, *held, self.order, self.codec.nbytes(*self.shape), self.templates)

    def set_headers(self, use, k):
        """Headers that say how each tensor was predicted, as a sender of which nothing else is known would."""
        data = b"".join(
            Header(self.codec.ident, used, 7, 2, True, 0, NONE, True, factor, 48, 0, 0).to_bytes()
            for used, factor in zip(use, k)
        )
        self.headers.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))

    def header(self, index):
        return Header.from_bytes(bytes(self.headers[index * Header.SIZE : (index + 1) * Header.SIZE].tolist()))

    def payload(self, index):
        return self.bodies[index][: self.codec.nbytes(*self.shape)]

    def used(self, index):
        """The bases that predicted this tensor."""
        return self.before[index][: self.header(index).predicted_from]

    def factor(self, index):
        """k, as the reference takes it."""
        return self.header(index).k if self.header(index).predicted_from > 1 else 0.0

    def residual(self, index):
        x, used = self.xs[index].float().contiguous(), self.used(index)
        return x - predict(used, self.factor(index)) if used else x

    def x_hat(self, index):
        """What the reference makes of the payload: clamp(decoded + prediction), in the tensor's dtype."""
        x_hat = self.codec.decode(self.payload(index), *self.shape, torch.float32)
        if used := self.used(index):
            x_hat += predict(used, self.factor(index))
        largest = torch.finfo(self.dtype).max
        return x_hat.clamp(-largest, largest).to(self.dtype)


def same(x, y):
    """Whether two tensors have the same bits."""
    return x.dtype == y.dtype and torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8))


def near(x, y, ulps=1):
    """Whether bfloat16 values agree within rounding."""
    x, y = x.float(), y.float()
    return bool(((x - y).abs() <= ulps * ULP * torch.maximum(x.abs(), y.abs())).all())


def scales_of(sender):
    """The reference's scales in the form the kernels take them, v also in the bodies."""
    parts = [sender.codec._parts(sender.payload(index), *sender.shape) for index in range(len(sender.xs))]
    found = [reference._scales(sender.residual(index)) for index in range(len(sender.xs))]
    for part, (_, v_C, _) in zip(parts, found):
        part.v_C[:] = v_C
    u_SN, v_SC, mean_S = (torch.stack(group) for group in zip(*found))
    payloads = [sender.codec.encode(sender.residual(index)) for index in range(len(sender.xs))]
    tails = torch.tensor([[[4.0 if payload[0] else 0.0, 1.0]] for payload in payloads])
    scales = Scales(u_SN.view(torch.uint16), v_SC.float(), reference._inverse(v_SC), mean_S, tails, 1)
    return scales, payloads


@pytest.mark.parametrize("name", LLOYD_MAX)
@pytest.mark.parametrize(("shape", "dtype"), list(zip(SHAPES, (*DTYPES, torch.float32))))
def test_codes_equal_the_reference_given_its_scales(name, shape, dtype):
    sender = Sender(2, *shape, dtype, 1, BY_NAME[name])
    sender.set_headers([1, 1], [0.0, 0.0])
    scales, payloads = scales_of(sender)
    lloyd_max_kernels.quantise(sender.message(), int(name[0]), scales)
    for index, expected in enumerate(payloads):
        got = sender.codec._parts(sender.payload(index), *shape)
        wanted = sender.codec._parts(expected, *shape)
        assert torch.equal(got.table, wanted.table)
        assert torch.equal(got.v_C, wanted.v_C)
        assert all(torch.equal(a, b) for a, b in zip(got.planes, wanted.planes))
        assert near(got.u_N, wanted.u_N)
        assert same(sender.state[index], sender.x_hat(index))


@pytest.mark.parametrize("name", LLOYD_MAX)
def test_codes_where_rounding_decides(name):
    """Every value is on a border between two codes. The scales taken in turn give the reference's codes; negative
    control: 1 / (u v) gives others."""
    tokens, channels, bits = 16, 512, int(name[0])
    sender = Sender(1, tokens, channels, torch.float32, 0, BY_NAME[name])
    sender.set_headers([0], [0.0])
    seeded = {n: torch.Generator(DEVICE).manual_seed(n) for n in (tokens, channels)}
    u, v = ((1 + torch.rand(n, generator=generator)).bfloat16() for n, generator in seeded.items())
    grid = sender.codec._grids[0]
    fine = torch.linspace(-4, 4, 1 << 14)
    steps = grid.codes(fine).int().diff().nonzero()[:, 0]
    borders = ((fine[steps] * grid._cells_per_unit).round() / grid._cells_per_unit).repeat(tokens * channels)
    d = borders[: tokens * channels].view(tokens, channels) * u.float()[:, None] * v.float()
    sender.xs[0].copy_(d)
    tails = torch.zeros(1, 1, 2)
    scales = Scales(u[None].view(torch.uint16), v[None].float(), reference._inverse(v)[None], torch.ones(1), tails, 1)
    lloyd_max_kernels.quantise(sender.message(), bits, scales)
    got = sender.codec._parts(sender.payload(0), tokens, channels).planes

    def packed(z):
        return [plane.view(tokens, -1) for plane in pack_planes(grid.codes(z).view(-1), bits)]

    in_turn = packed((d * reference._inverse(u)[:, None]) * reference._inverse(v))
    at_once = packed(d / (u.float()[:, None] * v.float()))
    assert all(torch.equal(a, b) for a, b in zip(got, in_turn))
    assert bits == 1 or not all(torch.equal(a, b) for a, b in zip(got, at_once))


@pytest.mark.parametrize(("name", "dtype", "order"), CASES)
def test_bases_equal_the_reference(name, dtype, order):
    """Two tensors with an odd number of tokens and channels."""
    sender = Sender(2, 9, 65, dtype, order, BY_NAME[name])
    if order == 0:
        sender.bases = [torch.full_like(x, torch.nan) for x in sender.xs]
    records = sender.encode()
    for index, x in enumerate(sender.xs):
        x_hat = sender.x_hat(index)
        assert same(sender.state[index], x_hat)
        lost, left, norm = (float(y.double().norm()) for y in (x.double() - x_hat, sender.residual(index), x))
        assert records[index].error == pytest.approx(lost / norm, rel=1e-4)
        assert records[index].missing == pytest.approx(left / norm, rel=1e-4)
        header = sender.header(index)
        assert header.predicted_from == order
        assert records[index].header[:-1] == header[:-1]
        assert header[:-1] == (sender.codec.ident, order, 7, 2, True, index, NONE, True, header.k, 48, 0)
        if order == 2:
            assert same(sender.bases[index], sender.before[index][0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ends_find_the_checksum(name, shape):
    """Negative control: another byte in the body."""
    sender = Sender(2, *shape, torch.bfloat16, 1, BY_NAME[name])
    before = [base.clone() for base in sender.bases]
    sender.encode()
    nbytes = -(-sender.codec.nbytes(*shape) // ALIGNMENT) * ALIGNMENT
    wanted = [checksums(body[:nbytes].clone(), [nbytes])[0] for body in sender.bodies]
    assert [sender.header(index).checksum for index in range(2)] == wanted

    def found():
        bases, outs = [base.clone() for base in before], [torch.empty_like(base) for base in before]
        records = ops.decode(sender.bodies, bases, [], outs, sender.headers, order=1, codec=sender.codec.ident)
        return received(read([records])[0])

    assert [record.total for record in found()] == wanted
    assert b"".join(record.header for record in found()) == bytes(sender.headers.tolist())
    sender.bodies[1][sender.codec.nbytes(*shape) - 1] ^= 1
    assert [record.total == total for record, total in zip(found(), wanted)] == [True, False]


def test_a_damaged_header_reads_no_memory_that_is_not_there():
    sender = Sender(2, 9, 65, torch.float32, 0, BY_NAME["2bit"])
    sender.encode()
    sender.set_headers([2, 255], [0.5, 0.5])
    outs = [torch.empty(9, 65) for _ in range(2)]
    ops.decode(sender.bodies, [], [], outs, sender.headers, order=0, codec=sender.codec.ident)
    assert all(out.isfinite().all() for out in outs)


def test_a_fused_prediction_gives_other_bases():
    """Negative control of the test above: k * trend + base rounded once."""
    sender = Sender(1, 9, 65, torch.float32, 2, BY_NAME["4bit"])
    sender.encode()
    base, previous = sender.before[0]
    fused = ((base - previous).double() * sender.factor(0) + base.double()).float()
    other = sender.codec.decode(sender.payload(0), *sender.shape, torch.float32) + fused
    assert torch.allclose(other, sender.state[0])
    assert not same(other, sender.state[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_payload_agrees_with_the_reference(name, shape):
    sender = Sender(2, *shape, torch.bfloat16, 1, BY_NAME[name], seed=1)
    sender.encode()
    for index, body in enumerate(sender.bodies):
        got, wanted = sender.payload(index), sender.codec.encode(sender.residual(index))
        padded = -(-len(got) // ALIGNMENT) * ALIGNMENT
        assert not body[len(got) : padded].any()
        assert (body[padded:] == 0xA5).all()
        if name not in LLOYD_MAX:
            assert torch.equal(got, wanted)
            continue
        got, wanted = (sender.codec._parts(payload, *shape) for payload in (got, wanted))
        assert torch.equal(got.table, wanted.table)
        assert near(got.u_N, wanted.u_N, ulps=2)
        assert near(got.v_C, wanted.v_C)


@pytest.mark.parametrize(("name", "dtype", "order"), CASES)
def test_decode_equals_the_reference(name, dtype, order):
    """Into views whose rows lie apart, and over the base; and with neither `outs` nor bases changed otherwise."""
    sender = Sender(2, 9, 65, dtype, order, BY_NAME[name], seed=2)
    sender.set_headers([order] * 2, [float32(0.3), float32(0.4)])
    for index, body in enumerate(sender.bodies):
        payload = sender.codec.encode(sender.residual(index))
        body[: len(payload)] = payload
    room = torch.zeros(9, 2, 65 + 2, dtype=dtype)
    outs = [room[:, index, 1:66] for index in range(2)]
    held = sender.bodies, sender.bases, sender.previous, outs, sender.headers
    ops.decode(*held, order=order, codec=sender.codec.ident)
    for index, out in enumerate(outs):
        x_hat = sender.x_hat(index)
        assert same(out, x_hat)
        if order:
            assert same(sender.state[index], x_hat)
    assert not room[:, :, 0].any() and not room[:, :, 66].any()


@pytest.mark.parametrize("name", NAMES)
def test_decode_without_outs(name):
    sender, receiver = (Sender(2, 9, 40, torch.bfloat16, 1, BY_NAME[name]) for _ in range(2))
    sender.encode()
    ops.decode(sender.bodies, receiver.bases, [], [], sender.headers, order=1, codec=receiver.codec.ident)
    assert all(same(a, b) for a, b in zip(sender.bases, receiver.bases))
    assert not same(sender.bases[0], sender.before[0][0])


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_a_message_do_not_mix(name):
    """Each tensor of a message of four gives the bytes it gives alone, with its own k and number of bases."""

    def four():
        sender = Sender(4, 5, 24, torch.float32, 2, BY_NAME[name])
        sender.xs[0].copy_(sender.xs[0].flip(0, 1) * 1e-3)  # bases predict it worse than zeros do
        sender.xs[3].copy_(sender.bases[3] + 0.1)
        return sender

    together = four()
    together.encode()
    for index in range(4):
        alone = four()
        ops.encode(
            [alone.xs[index]], [alone.bases[index]], [alone.previous[index]], [alone.bodies[index]],
            alone.headers[: Header.SIZE], together.templates[index * Header.SIZE :][: Header.SIZE], order=2,
            codec=alone.codec.ident,
        )  # fmt: skip
        assert alone.header(0) == together.header(index)
        assert torch.equal(together.payload(index), alone.payload(index))
        assert same(together.previous[index], alone.previous[index])
    assert [together.header(index).predicted_from for index in range(4)] == [0, 2, 2, 2]
    assert not torch.equal(together.payload(2), together.payload(3))


@pytest.mark.parametrize("order", (0, 1, 2))
@pytest.mark.parametrize("dtype", DTYPES)
def test_fit(dtype, order):
    """Of tensors that several programs sum up."""
    sender = Sender(2, 270, 65, dtype, order, BY_NAME["2bit"])
    message = sender.message()
    sums = fitted(message)
    assert sums.shape[1] > 1
    write(message, sums)
    for index, x in enumerate(sender.xs):
        k, norm, left = fit(x.float().contiguous(), sender.before[index])
        record = sent(read([message.records])[0])[index]
        assert record.header.predicted_from == order
        assert record.header.k == pytest.approx(k, rel=1e-4)
        assert record.missing == pytest.approx(math.sqrt(left / norm) if order else 1.0, rel=1e-4)
        assert order < 2 or k != pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize(("laplace", "table"), ((False, 0), (True, 1)))
@pytest.mark.parametrize("shape", ((40, 96), (150, 300)))
def test_scales(shape, laplace, table):
    """Of tensors larger than a tile and than the sample that tells the tails apart."""
    codec = BY_NAME["2bit"]
    sender = Sender(2, *shape, torch.float32, 1, codec)
    generator = torch.Generator(DEVICE).manual_seed(3)
    if laplace:
        for x, base in zip(sender.xs, sender.bases):
            x.sub_(base).mul_(torch.empty(shape).exponential_(0.5, generator=generator).sqrt()).add_(base)
    message = sender.message()
    scales = measure(message, fitted(message), tails=True)
    for index in range(2):
        d = sender.residual(index)
        u, v, mean = reference._scales(d)
        got_v = codec._parts(sender.payload(index), *shape).v_C
        assert near(scales.u_SN.view(torch.bfloat16)[index], u)
        assert near(got_v, v)
        assert torch.equal(scales.v_SC[index], got_v.float())
        assert torch.equal(scales.inverse_v_SC[index], reference._inverse(got_v))
        assert float(scales.mean_S[index]) == pytest.approx(float(mean), rel=1e-5)
        every = max(1, d.numel() // reference.SAMPLE)
        z = (d[::every] * reference._inverse(u)[::every, None] * reference._inverse(v)).double()
        assert z.numel() == scales.sampled
        square, magnitude = scales.tails_SP2[index].double().sum(0).tolist()
        assert square == pytest.approx(float(z.square().sum()), rel=5e-3)
        assert magnitude == pytest.approx(float(z.abs().sum()), rel=5e-3)
        assert (math.sqrt(square / z.numel()) > reference.HEAVY_TAIL * magnitude / z.numel()) == bool(table)


@pytest.mark.parametrize("name", NAMES)
def test_contraction_where_outliers_cross(name):
    sender = Sender(1, 12, 64, torch.float32, 0, BY_NAME[name])
    x = sender.xs[0]
    x[3] *= 1e3
    x[:, 5] *= 1e3
    assert sender.encode()[0].error ** 2 <= 1 + ULP


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", (0.0, 1e-40, -3.0, 1e34))
def test_constant_tensors(name, value):
    sender = Sender(1, 5, 40, torch.float32, 0, BY_NAME[name])
    sender.bases = [torch.empty_like(sender.xs[0]).contiguous()]
    sender.xs[0].fill_(value)
    (record,) = sender.encode()
    assert record.header.finite
    assert same(sender.bases[0], sender.x_hat(0))
    assert sender.bases[0].isfinite().all()
    assert (sender.bases[0] - value).abs().max() <= ULP * abs(value) or value == 1e-40
    assert math.isfinite(record.error) or value == 1e34


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", (math.nan, math.inf))
def test_not_finite(name, value):
    """The other tensor of the message is not touched by it."""
    sender, clean = (Sender(2, 6, 40, torch.bfloat16, 1, BY_NAME[name]) for _ in range(2))
    sender.xs[0][3, 5] = value
    records = sender.encode()
    clean.encode()
    assert [record.header.finite for record in records] == [False, True]
    assert [math.isfinite(record.error) for record in records] == [False, True]
    assert torch.equal(sender.payload(1), clean.payload(1))
    outs = [torch.zeros_like(base) for base in clean.bases]
    held = [base.clone() for base, *_ in clean.before]
    ops.decode(sender.bodies, held, [], outs, sender.headers, order=1, codec=sender.codec.ident)
    assert outs[0].isnan().all()
    assert same(outs[1], clean.bases[1])


@pytest.mark.parametrize("receiver", ("kernels", "reference"))
@pytest.mark.parametrize(("name", "predictor"), (("2bit", "least_squares"), ("3bit", "previous"), ("fp8", "none")))
def test_streams_stay_equal(monkeypatch, name, predictor, receiver):
    """K and V over a wire, call after call: whoever decodes holds the sender's bases, bit for bit."""

    def kernels_run(where):
        monkeypatch.setattr(ops, "usable", lambda codec, channels, device: where and codec in ops.IDENTS)

    link = Link(codec=name, predictor=predictor, warmup_calls=2)
    pack, unpack = link.sender.pack, link.unpack
    runs = []
    monkeypatch.setattr(link.sender, "pack", lambda *args: (kernels_run(True), pack(*args))[1])
    monkeypatch.setattr(link, "unpack", lambda *args: (kernels_run(receiver == "kernels"), unpack(*args))[1])
    encode = ops.encode
    monkeypatch.setattr(ops, "encode", lambda *args, **kind: runs.append(kind["codec"]) or encode(*args, **kind))
    errors = []
    with SimulatedCard() if DEVICE == "cpu" else contextlib.nullcontext() as card:
        given = [drift(5, n=6, c=40, dtype=torch.bfloat16, seed=seed) for seed in (0, 1)]
        for pair in zip(*given):
            k, v = pair if card is None else card.put(pair)
            errors.append(relative(k, link.send(k, v)[0]))
            link.settle()
            link.assert_equal_bases()
    assert runs == [BY_NAME["int8"].ident] * 2 + [BY_NAME[name].ident] * 3
    assert max(errors) < 0.4
    assert link.ledger.errors[-2] == pytest.approx(errors[-1], rel=1e-2)


def test_what_does_not_fit_is_refused():
    def attempt(match, **changes):
        sender = Sender(2, 5, 16, torch.float32, 1, BY_NAME["2bit"])
        arguments = {
            "xs": sender.xs, "bases": sender.bases, "previous": [], "bodies": sender.bodies, "headers": sender.headers,
            "templates": sender.templates, "order": 1, "codec": sender.codec.ident,
        }  # fmt: skip
        with pytest.raises(ValueError, match=match):
            ops.encode(**arguments | {name: change(arguments[name]) for name, change in changes.items()})

    attempt("no kernels", codec=lambda _: BY_NAME["skip"].ident)
    attempt("1 bases for 2 tensors", bases=lambda bases: bases[:1])
    attempt("beside", bases=lambda bases: [base.half() for base in bases])
    attempt("follow each other", xs=lambda xs: [x.t().contiguous().t() for x in xs])
    attempt("contiguous", bases=lambda bases: [base.t().contiguous().t() for base in bases])
    attempt("multiple of 16", bodies=lambda bodies: [body[2:] for body in bodies])
    attempt("at least", bodies=lambda bodies: [body[:32] for body in bodies])
    attempt("not so many", order=lambda _: 2)
    attempt("as many headers", headers=lambda headers: headers[:32])
    attempt("Older", bases=lambda _: [], previous=lambda _: [torch.zeros(5, 16)] * 2)
