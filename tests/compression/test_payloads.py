"""Payloads as the docstrings draw them: each is read here byte by byte, by code that shares nothing with the codecs."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from compact_parallel.runtime.compression.codecs import BY_NAME, OFFERED, lloyd_max
from residuals import gauss, laplace

SHAPES = [(5, 11), (3, 16), (1, 1), (7, 33), (40, 8)]


def bf16(data, count):
    """`count` bfloat16 numbers: the upper halves of float32 ones."""
    return [np.float32(struct.unpack("<f", b"\0\0" + data[i : i + 2])[0]) for i in range(0, 2 * count, 2)]


def bit(data, place):
    return data[place // 8] >> (place % 8) & 1


def number(data, place, bits):
    """A number of `bits` bits from bit `place` on, low bits first."""
    return sum(bit(data, place + i) << i for i in range(bits))


def read_lloyd_max(bits):
    def read(data, n, c):
        positive = (lloyd_max.GAUSS, lloyd_max.LAPLACE)[data[0]][bits]
        levels = [-level for level in reversed(positive)] + list(positive)
        u, v = bf16(data[2:], n), bf16(data[2 + 2 * n :], c)
        codes, row = data[2 + 2 * (n + c) :], -(-c // 8) * 8
        assert data[1] == 0
        assert len(codes) == n * row * bits // 8

        def code(place):
            if bits == 3:
                return number(codes, 2 * place, 2) | bit(codes, 2 * n * row + place) << 2
            return number(codes, bits * place, bits)

        assert not any(code(i * row + j) for i in range(n) for j in range(c, row))
        return [[np.float32(levels[code(i * row + j)]) * u[i] * v[j] for j in range(c)] for i in range(n)]

    return read


def read_blocks(value):
    def read(data, n, c):
        blocks = -(-n * c // 32)
        scales = bf16(data, blocks)
        assert len(data) == 2 * blocks + n * c
        flat = [np.float32(value(data[2 * blocks + i])) * scales[i // 32] for i in range(n * c)]
        return np.array(flat).reshape(n, c)

    return read


def e4m3(byte):
    sign, exponent, mantissa = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    return sign * (2.0**-6 * mantissa / 8 if exponent == 0 else 2.0 ** (exponent - 7) * (1 + mantissa / 8))


def read_top_k(data, n, c):
    blocks = -(-n * c // 16)
    values = bf16(data, blocks)
    assert len(data) == 2 * blocks + -(-blocks // 2)
    flat = np.zeros(16 * blocks, np.float32)
    for block, value in enumerate(values):
        flat[16 * block + number(data[2 * blocks :], 4 * block, 4)] = value
    assert not flat[n * c :].any()
    return flat[: n * c].reshape(n, c)


def read_low_rank(bits, rank):
    def read(data, n, c):
        r = min(rank, n, c)
        s, t, factors = bf16(data, n), bf16(data[2 * n :], c), data[2 * (n + c) :]
        size = -(-n * r * bits // 8)
        assert len(factors) == size + -(-c * r * bits // 8)

        def integer(part, place):
            return struct.unpack_from("b", part, place)[0] if bits == 8 else number(part, 4 * place, 4) - 8

        a = [[integer(factors[:size], i * r + k) for k in range(r)] for i in range(n)]
        b = [[integer(factors[size:], j * r + k) for k in range(r)] for j in range(c)]
        assert max(abs(x) for row in a + b for x in row) <= 2 ** (bits - 1) - 1
        sums = [[sum(x * y for x, y in zip(a[i], b[j])) for j in range(c)] for i in range(n)]
        return [[np.float32(sums[i][j]) * s[i] * t[j] for j in range(c)] for i in range(n)]

    return read


READERS = {
    "int8": read_blocks(lambda byte: struct.unpack("b", bytes([byte]))[0]),
    "fp8": read_blocks(e4m3),
    "4bit": read_lloyd_max(4),
    "3bit": read_lloyd_max(3),
    "2bit": read_lloyd_max(2),
    "1bit": read_lloyd_max(1),
    "low_rank": read_low_rank(8, 6),
    "low_rank_4bit": read_low_rank(4, 6),
    "top_k": read_top_k,
}


def test_every_codec_has_a_reader():
    assert set(READERS) == set(OFFERED)


def payload_and_result(name, d):
    codec = BY_NAME[name].configured(6)
    payload = codec.encode(d)
    return bytes(payload.tolist()), codec.decode(payload, *d.shape, torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("data", [gauss, laplace])
def test_bytes_mean_what_the_docstring_says(name, shape, data):
    payload, d_hat = payload_and_result(name, data(*shape) * data(1, shape[1], seed=1))
    read = torch.from_numpy(np.array(READERS[name](payload, *shape), dtype=np.float32))
    assert torch.equal(read, d_hat)
    assert not torch.equal(read, torch.zeros_like(read))


@pytest.mark.parametrize(
    ("name", "other"),
    [("int8", "fp8"), ("fp8", "int8"), ("low_rank", "low_rank_4bit"), ("2bit", "1bit"), ("1bit", "2bit")],
)
def test_another_reader_does_not_understand_them(name, other):
    """The negative control. Readers of another length say so, the others read something else."""
    payload, d_hat = payload_and_result(name, gauss(5, 11))
    try:
        read = np.array(READERS[other](payload, 5, 11), dtype=np.float32)
    except AssertionError:
        return
    assert not np.array_equal(read, d_hat.numpy())


def test_one_token_and_few_channels():
    one = [0x80, 0x3F]  # 1.0 in bfloat16, little-endian
    scales = [0, 0, *one, *one, *one, *one]

    def encoded(name, values):
        return BY_NAME[name].encode(torch.tensor(values)).tolist()

    assert encoded("1bit", [[1.0, -1.0, 1.0]]) == [*scales, 0b101]
    assert encoded("1bit", [[1.0, -1.0], [1.0, -1.0]]) == [0, 0, *one, *one, *one, *one, 0b01, 0b01]
    assert encoded("int8", [[127.0, -3.4, 0.0]]) == [*one, 127, 253, 0]
    assert encoded("fp8", [[448.0, -1.1, 0.0]]) == [*one, 0x7E, 0xB9, 0]
    assert encoded("top_k", [[0.5, -1.0, 0.0]]) == [0x80, 0xBF, 1]
    assert encoded("skip", [[1.0]]) == []
