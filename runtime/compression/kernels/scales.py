"""Triton kernels that compute the token and channel scales of a message (see `..codecs.lloyd_max` for the definition).

Loops over runtime bounds are written as `while`, because Triton's interpreter has no `range` for them.

The order of all sums depends on shapes alone, so equal tensors give equal scales. Sums of magnitudes are scaled down
per tile, so that values up to 1e34 do not overflow.

Legend: S tensors, N tokens, C channels, P parts of SLICE channels.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a Triton function have no Python types)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..codecs import lloyd_max as codec
from .fit import PROGRAMS, solve, write_fit
from .message import Message
from .values import (
    BODY,
    CHECKSUM,
    ELEMENT,
    LAUNCH,
    SMALLEST_SCALE,
    X,
    add_to_checksum,
    bf16_bits,
    bf16_value,
    expected,
    header_of,
    in_words,
    inverse,
    pointer,
    predictor,
    predictor_with,
    read,
    rows_of,
    tile_of,
    width_of,
)

FAINT = tl.constexpr(codec.FAINT)
TILE = 2048
"""Values that a program (one warp) of `_measure` reads at once."""
STEPS = 4
"""Tiles, one below the other, that a program of `_measure` sums up."""
SLICE = 64
"""Tokens and channels per program of `_scale`."""
DEPTH = 8
"""Rows that a program of `_scale` adds up at once."""


class Scales(NamedTuple):
    """The scales of a message: u as bits of bfloat16, v as bfloat16 values in float32, 1 / v, the mean magnitude of
    each tensor, and, per part, the sums of z^2 and abs(z), z = residual / (u v), over a sample of `sampled` values."""

    u_SN: Tensor
    v_SC: Tensor
    inverse_v_SC: Tensor
    mean_S: Tensor
    tails_SP2: Tensor
    sampled: int


@triton.jit(do_not_specialize=["tokens", "programs"])
def _measure(
    table,
    sums,
    row_means,
    column_means,
    tile_means,
    tokens,
    channels,
    over_tokens,
    over_channels,
    programs,
    element: tl.constexpr,
    aligned: tl.constexpr,
    BASES: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Writes each tile's contribution to the mean magnitude of each token (S, tiles across, N), of each channel
    (S, tiles down, C) and of all values (S, tiles); the first program of a tensor also completes its header."""
    down, across, tensor = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tiles_down, tiles_across = tl.num_programs(0), tl.num_programs(1)
    use, k, relative, norm, finite = solve(sums, tensor, programs, BASES, PROGRAMS)
    if down + across == 0:
        write_fit(table, tensor, use, k, relative, norm, finite)
    x, stride = rows_of(table, tensor, X, element, aligned)
    predicted_by = predictor_with(table, tensor, use, k, element, aligned)
    column_C = across * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], tl.float32)
    for step in range(STEPS):
        row_N = (down * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside, place, offset = tile_of(row_N, column_C, tokens, channels, stride)
        magnitude = tl.abs(read(x + offset, inside) - expected(predicted_by, place, inside))
        total += tl.sum(magnitude, axis=0)
        share = tl.sum(magnitude, axis=1) * over_channels
        tl.store(row_means + (tensor * tiles_across + across) * tokens + row_N, share, mask=row_N < tokens)
    share = total * over_tokens
    tl.store(column_means + (tensor * tiles_down + down) * channels + column_C, share, mask=column_C < channels)
    number = (tensor * tiles_down + down) * tiles_across + across
    tl.store(tile_means + number, tl.sum(share * over_channels, axis=0))


@triton.jit
def _token_scale(row_means, tensor, row_N, mean, tokens, tiles_across):
    """u of the tokens `row_N` as bfloat16 bits."""
    total = tl.zeros(row_N.shape, tl.float32)
    number = tensor * tiles_across
    while number < (tensor + 1) * tiles_across:
        total += tl.load(row_means + number * tokens + row_N, mask=row_N < tokens, other=0.0)
        number += 1
    return bf16_bits(tl.div_rn(total, mean))


@triton.jit(do_not_specialize=["tokens", "tiles_down", "tiles_across", "every", "parts"])
def _scale(
    table,
    row_means,
    column_means,
    tile_means,
    u_SN,
    v_SC,
    inverse_v_SC,
    mean_S,
    tails_SP2,
    tokens,
    channels,
    tiles_down,
    tiles_across,
    every,
    parts,
    element: tl.constexpr,
    aligned: tl.constexpr,
    TAILS: tl.constexpr,
    SLICE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Writes the scales of SLICE tokens and SLICE channels and, over every `every`-th row of those channels, the sums
    of z^2 and abs(z)."""
    part, tensor = tl.program_id(0), tl.program_id(1)
    shares = tl.zeros([1024], tl.float32)
    tiles = tiles_down * tiles_across
    start = 0
    while start < tiles:
        number = start + tl.arange(0, 1024)
        shares += tl.load(tile_means + tensor * tiles + number, mask=number < tiles, other=0.0)
        start += 1024
    mean = tl.maximum(tl.sum(shares, axis=0), SMALLEST_SCALE)
    tl.store(mean_S + tensor, mean)

    row_N = part * SLICE + tl.arange(0, SLICE)
    u = _token_scale(row_means, tensor, row_N, mean, tokens, tiles_across)
    tl.store(u_SN + tensor * tokens + row_N, u, mask=row_N < tokens)

    column_C = part * SLICE + tl.arange(0, SLICE)
    total = tl.zeros([DEPTH, SLICE], tl.float32)
    start = 0
    while start < tiles_down:
        down = start + tl.arange(0, DEPTH)
        inside = (down < tiles_down)[:, None] & (column_C < channels)[None, :]
        shares_of = column_means + (tensor * tiles_down + down)[:, None] * channels + column_C[None, :]
        total += tl.load(shares_of, mask=inside, other=0.0)
        start += DEPTH
    v = tl.sum(total, axis=0)
    bits = bf16_bits(tl.where(v >= tl.maximum(mean * FAINT, SMALLEST_SCALE), v, 0.0))
    v = bf16_value(bits)
    inverse_v = inverse(v)
    tl.store(v_SC + tensor * channels + column_C, v, mask=column_C < channels)
    tl.store(inverse_v_SC + tensor * channels + column_C, inverse_v, mask=column_C < channels)
    body = pointer(table, tensor, BODY, tl.uint16, False)
    tl.store(body + 1 + tokens + column_C, bits, mask=column_C < channels)
    if part < parts:
        in_body = in_words(bits, 1 + tokens + column_C, 2, column_C < channels)
        add_to_checksum(header_of(table, tensor) + CHECKSUM, in_body)

    if part < parts and TAILS:
        x, stride = rows_of(table, tensor, X, element, aligned)
        predicted_by = predictor(table, tensor, element, aligned)
        square, magnitude = tl.zeros([DEPTH, SLICE], tl.float32), tl.zeros([DEPTH, SLICE], tl.float32)
        start = 0
        while start < tokens:
            sample_N = start + tl.arange(0, DEPTH) * every
            sample_bits = _token_scale(row_means, tensor, sample_N, mean, tokens, tiles_across)
            within, place, offset = tile_of(sample_N, column_C, tokens, channels, stride)
            d = read(x + offset, within) - expected(predicted_by, place, within)
            z = d * inverse(bf16_value(sample_bits))[:, None] * inverse_v[None, :]
            square += z * z
            magnitude += tl.abs(z)
            start += DEPTH * every
        tails = tails_SP2 + (tensor * parts + part) * 2
        tl.store(tails, tl.sum(tl.sum(square, axis=1), axis=0))
        tl.store(tails + 1, tl.sum(tl.sum(magnitude, axis=1), axis=0))


def measure(message: Message, sums: Tensor, tails: bool) -> Scales:
    """The scales of the residuals, by the fit that `sums` give; v and the fit are also written into the message.
    Without `tails` the sums of the sample are left undefined."""
    tensors, tokens, channels = message.tensors, message.tokens, message.channels
    width = width_of(channels, widest=256)
    rows = TILE // width
    tiles = triton.cdiv(tokens, rows * STEPS), triton.cdiv(channels, width)
    parts = triton.cdiv(channels, SLICE)
    shapes = (tiles[1], tokens), (tiles[0], channels), tiles, (channels,), (channels,), (), (parts, 2)
    new = [torch.empty(tensors, *shape, device=message.device) for shape in shapes]
    row_means, column_means, tile_means, v_SC, inverse_v_SC, mean_S, tails_SP2 = new
    u_SN = torch.empty(tensors, tokens, dtype=torch.uint16, device=message.device)
    element = ELEMENT[message.dtype]
    _measure[(*tiles, tensors)](
        message.table, sums, row_means, column_means, tile_means, tokens, channels, 1 / tokens, 1 / channels,
        sums.shape[1], element, message.aligned, message.bases, PROGRAMS, rows, width, STEPS, num_warps=1, **LAUNCH,
    )  # fmt: skip
    every = max(1, tokens * channels // codec.SAMPLE)
    _scale[(max(parts, triton.cdiv(tokens, SLICE)), tensors)](
        message.table, row_means, column_means, tile_means, u_SN, v_SC, inverse_v_SC, mean_S, tails_SP2, tokens,
        channels, *tiles, every, parts, element, message.aligned, tails, SLICE, DEPTH, num_warps=4, **LAUNCH,
    )  # fmt: skip
    return Scales(u_SN, v_SC, inverse_v_SC, mean_S, tails_SP2, -(-tokens // every) * channels)
