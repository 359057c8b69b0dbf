"""Encodes or decodes all tensors of a message: by fused kernels where they apply, else one by one with `quantise`.

Fused kernels take a few launches for all tensors. They apply to CUDA tensors of one shape, dtype and codec, if that
codec has kernels, and give the same results as `quantise`. Bases that are no longer needed are overwritten to save
memory.

Legend: N tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import quantise
from .kernels import ops
from .predict import solve
from .quantise import Coded, Decoding, Encoding


def encode_all(tasks: Sequence[Encoding]) -> list[Coded]:
    """Encodes all tensors of a message into their payloads. Returns the results in order."""
    return _encode_fused(tasks) if _fits(tasks, [task.x_NC for task in tasks]) else [*map(quantise.encode, tasks)]


def decode_all(tasks: Sequence[Decoding]) -> list[Tensor]:
    """Decodes all tensors of a message. Returns x_hat of each in order and writes it into its `out_NC` too."""
    return _decode_fused(tasks) if _fits(tasks, [task.out_NC for task in tasks]) else [*map(quantise.decode, tasks)]


def _fits(tasks: Sequence[Encoding] | Sequence[Decoding], tensors: Sequence[Tensor]) -> bool:
    """Whether one launch can process all tasks: tensors of one kind, readable by kernels, of a codec with kernels."""
    kinds = {(task.codec.ident, len(task.bases), x.shape, x.dtype) for task, x in zip(tasks, tensors)}
    return (
        len(kinds) == 1
        and ops.usable(tasks[0].codec.ident, tensors[0].shape[1], tensors[0].device)
        and all(x.stride(1) == 1 for x in tensors)
    )


def _encode_fused(tasks: Sequence[Encoding]) -> list[Coded]:
    xs = [task.x_NC for task in tasks]
    bases, previous = _bases(tasks, xs)
    fitted = [solve(*row) for row in ops.fit(xs, *_only(tasks, bases, previous)).tolist()]
    use = [len(task.bases) if missing < norm else 0 for task, (_, norm, missing) in zip(tasks, fitted)]
    k = [k for k, _, _ in fitted]
    sums = ops.encode(xs, bases, previous, k, use, [task.payload for task in tasks], tasks[0].codec.ident).tolist()
    results = []
    for index, (_, lost) in enumerate(sums):
        factor, norm, missing = fitted[index]
        relative = math.sqrt(max(missing, 0.0) / norm) if use[index] and 0 < norm < math.inf else 1.0
        x_hat_NC = (previous or bases)[index]
        error = quantise.relative_error(xs[index], x_hat_NC, norm, lost)
        results.append(Coded(x_hat_NC, use[index], factor, relative, error))
    return results


def _decode_fused(tasks: Sequence[Decoding]) -> list[Tensor]:
    outs = [task.out_NC for task in tasks]
    bases, previous = _bases(tasks, outs)
    k, use = [task.k for task in tasks], [task.used for task in tasks]
    ops.decode([task.payload for task in tasks], bases, previous, k, use, outs, tasks[0].codec.ident)
    return previous or bases


def _bases(tasks: Sequence[Encoding] | Sequence[Decoding], like: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """`bases` and `previous` as the kernels take them: x_hat is written over the older base, which must be disposable.

    A stream that will keep two bases but has only one keeps that one, and x_hat gets new memory.
    """
    new = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in like if len(tasks[0].bases) < 2]
    match len(tasks[0].bases):
        case 0:
            return new, []
        case 1 if tasks[0].keep < 2:
            return [task.bases[0] for task in tasks], []
        case 1:
            return [task.bases[0] for task in tasks], new
        case _:
            return [task.bases[0] for task in tasks], [task.bases[1] for task in tasks]


def _only(tasks: Sequence[Encoding], bases: list[Tensor], previous: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of `bases` and `previous` that hold real bases and not just memory for x_hat, for the fit."""
    order = len(tasks[0].bases)
    return (bases if order else []), (previous if order == 2 else [])
