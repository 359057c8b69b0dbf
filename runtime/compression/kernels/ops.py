"""Torch operators that fit, encode and decode whole messages on a GPU; `torch.compile` can trace through them.

They compute what `..quantise` defines, with the same bits in bases and outputs, for the codecs in `IDENTS`, on CUDA
tensors (with TRITON_INTERPRET=1 on any). Triton is imported when an operator first runs.

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
from .message import WIDEST, Message, make_message

# Compared by exact class, because a subclass may change the arithmetic.
BITS = {codec.ident: codec.value_bits for codec in BY_IDENT.values() if type(codec) is LloydMax}
BLOCKS = {codec.ident: codec for codec in BY_IDENT.values() if type(codec) in (Int8, Fp8)}
IDENTS = frozenset((*BITS, *BLOCKS))
"""Numbers of the codecs that have kernels."""


def usable(codec: int, channels: int, device: torch.device) -> bool:
    """Whether `encode` and `decode` support this codec, number of channels and device."""
    known = codec in BLOCKS or (codec in BITS and channels <= WIDEST)
    return known and device.type == "cuda" and find_spec("triton") is not None


@torch.library.custom_op("compact_parallel::residual_fit", mutates_args=())
def fit(xs: Sequence[Tensor], bases: Sequence[Tensor], previous: Sequence[Tensor]) -> Tensor:
    """(S, 4) float32, per tensor <x, x>, <m, m>, <m, t>, <t, t> with m = x - base and t = base - previous base.

    xs: S tensors (N, C) of one shape and dtype, contiguous channels, any row stride. `bases` and `previous`
    (contiguous) are empty lists if there are none: then base = 0 and t = 0. Squares outside the range of float32 come
    out as 0, infinity or NaN. Raises ValueError for tensors that do not fit together, RuntimeError without Triton or
    CUDA.
    """
    with _on(xs[0].device):
        from .fit import fit as run

        return run(make_message(xs, bases, previous), bool(bases) + bool(previous))


@fit.register_fake
def _(xs: Sequence[Tensor], bases: Sequence[Tensor], previous: Sequence[Tensor]) -> Tensor:
    return xs[0].new_empty(len(xs), 4, dtype=torch.float32)


@torch.library.custom_op("compact_parallel::residual_encode", mutates_args=("bases", "previous", "bodies"))
def encode(
    xs: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float],
    use: Sequence[int],
    bodies: Sequence[Tensor],
    codec: int,
) -> Tensor:
    """Writes the payloads of S tensors into `bodies`, and x_hat, which the receivers will reconstruct, over a base.

    xs, bases, previous: as for `fit`. use[s] bases (0, 1 or 2) predict tensor s, the second with the factor k[s]. x_hat
    overwrites `previous` if given (the caller then swaps the two), else `bases`, else it is not stored; so the base of
    a first message is any tensor, with use 0.
    bodies: uint8, each starting at a multiple of 16 bytes and at least the codec's `nbytes(N, C)` long; bytes beyond
    that stay as they are. Views of one buffer are fine.
    Returns (S, 2) float32: ||x||^2 and ||x - x_hat||^2; not finite if x holds NaN or Inf (then the other results are
    meaningless), and if a square exceeds float32.
    Raises ValueError for tensors that do not fit together, RuntimeError without Triton or CUDA.
    """
    with _on(bodies[0].device):
        message = _coded(xs, bases, previous, k, use, bodies, codec, decodes=False)
        if codec in BITS:
            from . import lloyd_max_kernels

            return lloyd_max_kernels.encode(message, BITS[codec])
        from . import block_kernels

        return block_kernels.encode(message, BLOCKS[codec].largest, isinstance(BLOCKS[codec], Fp8))


@encode.register_fake
def _(
    xs: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float],
    use: Sequence[int],
    bodies: Sequence[Tensor],
    codec: int,
) -> Tensor:
    return xs[0].new_empty(len(xs), 2, dtype=torch.float32)


@torch.library.custom_op("compact_parallel::residual_decode", mutates_args=("bases", "previous", "outs"))
def decode(
    bodies: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float],
    use: Sequence[int],
    outs: Sequence[Tensor],
    codec: int,
) -> None:
    """Decodes S payloads into `outs` (N, C), of any row stride, and over a base as `encode` does.

    `outs` (which overlap no base) may be an empty list if there are bases: then the new base is the only copy, and
    attention reads that.
    """
    with _on(bodies[0].device):
        message = _coded(outs, bases, previous, k, use, bodies, codec, decodes=True)
        if codec in BITS:
            from . import lloyd_max_kernels

            lloyd_max_kernels.decode(message, BITS[codec])
        else:
            from . import block_kernels

            block_kernels.decode(message, isinstance(BLOCKS[codec], Fp8))


@decode.register_fake
def _(
    bodies: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float],
    use: Sequence[int],
    outs: Sequence[Tensor],
    codec: int,
) -> None:
    return None


def _coded(
    tensors: Sequence[Tensor],
    bases: Sequence[Tensor],
    previous: Sequence[Tensor],
    k: Sequence[float],
    use: Sequence[int],
    bodies: Sequence[Tensor],
    codec: int,
    decodes: bool,
) -> Message:
    """The table of a message to encode or decode, with codec and body sizes checked."""
    if codec not in IDENTS:
        raise ValueError(f"Codec {codec} has no kernels; {sorted(IDENTS)} have.")
    message = make_message(tensors, bases, previous, k, use, bodies, decodes)
    nbytes = BY_IDENT[codec].nbytes(message.tokens, message.channels)
    if len(bodies) != message.tensors or any(len(body) < nbytes for body in bodies):
        raise ValueError(f"{message.tensors} bodies of at least {nbytes} bytes are needed.")
    return message


def _on(device: torch.device) -> AbstractContextManager:
    """A context in which Triton launches on `device`. Raises RuntimeError if that is not possible."""
    if find_spec("triton") is None:
        raise RuntimeError("The compression kernels need Triton, which is not installed: pip install triton")
    if device.type == "cuda":
        return torch.cuda.device(device)
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(f"The compression kernels work on CUDA tensors, not on {device.type}.")
    return nullcontext()
