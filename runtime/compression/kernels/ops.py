"""Encodes and decodes whole messages with kernels on a GPU.

They compute what `..quantise` defines, with the same bits in bases and outputs, for the codecs in `IDENTS`, on CUDA
tensors (with TRITON_INTERPRET=1 on any). Triton is imported when one of them first runs. Nothing here makes the host
wait for the device. torch.compile leaves them out, because the table holds the tensors' addresses.

Legend: S tensors of a message (K and V of every batch entry), N tokens, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

import torch
from torch import Tensor

from ..codecs import BY_IDENT
from ..codecs.fp8 import Fp8
from ..codecs.int8 import Int8
from ..codecs.lloyd_max import LloydMax
from .compiler import compiler
from .message import WIDEST, make_message

# Compared by exact class, because a subclass may change the arithmetic.
BITS = {codec.ident: codec.value_bits for codec in BY_IDENT.values() if type(codec) is LloydMax}
BLOCKS = {codec.ident: codec for codec in BY_IDENT.values() if type(codec) in (Int8, Fp8)}
IDENTS = frozenset((*BITS, *BLOCKS))
"""Numbers of the codecs that have kernels."""


def usable(codec: int, channels: int, device: torch.device) -> bool:
    """Whether `encode` and `decode` support this codec, number of channels and device."""
    known = codec in BLOCKS or (codec in BITS and channels <= WIDEST)
    return known and device.type == "cuda" and find_spec("triton") is not None and not compiler().refused


@torch.compiler.disable
def encode(
    xs: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    bodies: Sequence[Tensor],
    headers: Tensor,
    templates: bytes,
    *,
    order: int,
    codec: int,
) -> Tensor:
    """Writes the bodies and headers of S tensors, and x_hat, which the receivers will reconstruct, over a base.

    Args:
        xs: S tensors (N, C) of one shape and dtype, contiguous channels, any row stride.
        bases, previous: contiguous, or empty lists. x_hat overwrites `previous` if given (the caller then swaps the
            two), else `bases`, else it is not stored.
        bodies: uint8, each starting at a multiple of 16 bytes and at least the codec's `nbytes(N, C)` long. Views of
            one buffer are fine.
        headers: uint8, where the headers go; `templates` are theirs (see `Header.to_bytes`).
        order: how many bases hold what was sent before; 0 at a first message, where `bases` are only memory for x_hat.
    Returns:
        The records (S, 12) int32; see `..records`.
    Raises:
        ValueError: tensors that do not fit together. RuntimeError: no Triton or no CUDA.
    """
    nbytes = _payload_nbytes(codec, xs[0].shape)
    message = make_message(xs, bases, previous, bodies, headers, order, nbytes, templates)
    with _on(message.device):
        if codec in BITS:
            from . import lloyd_max_kernels

            lloyd_max_kernels.encode(message, BITS[codec])
        else:
            from . import block_kernels

            block_kernels.encode(message, BLOCKS[codec].largest, isinstance(BLOCKS[codec], Fp8))
    return message.records


@torch.compiler.disable
def decode(
    bodies: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    outs: Sequence[Tensor],
    headers: Tensor,
    *,
    order: int,
    codec: int,
) -> Tensor:
    """Decodes S payloads into `outs` (N, C), of any row stride, and over a base as `encode` does.

    How they are predicted is read from the `headers` on the device; NaN is written for a tensor that was not finite.
    `outs` (which overlap no base) may be an empty list if there are bases: then the new base is the only copy.
    Returns the records (S, 12) int32, by which damage is found; see `..records`. Raises as `encode` does.
    """
    nbytes = _payload_nbytes(codec, (outs or bases)[0].shape)
    message = make_message(outs, bases, previous, bodies, headers, order, nbytes)
    with _on(message.device):
        if codec in BITS:
            from . import lloyd_max_kernels

            lloyd_max_kernels.decode(message, BITS[codec])
        else:
            from . import block_kernels

            block_kernels.decode(message, isinstance(BLOCKS[codec], Fp8))
    return message.records


def _payload_nbytes(codec: int, shape: Sequence[int]) -> int:
    if codec not in IDENTS:
        raise ValueError(f"Codec {codec} has no kernels; {sorted(IDENTS)} have.")
    return BY_IDENT[codec].nbytes(*shape)


def _on(device: torch.device) -> AbstractContextManager:
    """A context in which Triton launches on `device`. Raises RuntimeError if that is not possible."""
    if find_spec("triton") is None:
        raise RuntimeError("The compression kernels need Triton, which is not installed: pip install triton")
    if device.type == "cuda":
        return torch.cuda.device(device)
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(f"The compression kernels work on CUDA tensors, not on {device.type}.")
    return nullcontext()
