"""Evaluates the denoiser's calls of several steps as one batch. R rows of a call, entries of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..rows import NOT_OF_ROWS, TIMESTEPS, rows_of
from ..running import Denoiser, DenoiserCall


class _Differs(Exception):
    """The calls cannot be evaluated as one batch."""


def one_batch(asked: Sequence[Sequence[DenoiserCall]], denoiser: Denoiser) -> list[Denoiser] | None:
    """For each step a denoiser that answers its calls, all of which have been evaluated as one batch per place.

    `asked`: the calls of each step; None if they cannot be joined. An answering denoiser evaluates a call by itself
    whose arguments are no longer those of `asked`, because they depend on what an earlier call of the step returned.
    """
    if len({len(calls) for calls in asked}) > 1 or not asked[0]:
        return None
    try:
        joined = [_joined(calls) for calls in zip(*asked)]
    except _Differs:
        return None
    outputs = [_split(denoiser(call), len(asked)) for call in joined]
    return [_answering(list(calls), [parts[step] for parts in outputs], denoiser) for step, calls in enumerate(asked)]


def _answering(calls: list[DenoiserCall], outputs: list[Any], denoiser: Denoiser) -> Denoiser:
    def answer(call: DenoiserCall) -> Any:
        if call.place < len(calls) and same_arguments(call, calls[call.place]):
            return outputs[call.place]
        return denoiser(call)

    return answer


def same_arguments(call: DenoiserCall, other: DenoiserCall, tolerance: float = 0.0) -> bool:
    """Whether two calls ask the same denoiser the same, up to a relative difference of tensors."""
    return call.name == other.name and _same((call.args, call.kwargs), (other.args, other.kwargs), tolerance)


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not tolerance or not one.is_floating_point():
            return torch.equal(one, other)
        return bool((one - other).float().norm() <= tolerance * one.float().norm())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name], tolerance) for name in one)
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(_same(*pair, tolerance) for pair in zip(one, other))
    return type(one) is type(other) and (one is other or not isinstance(one, int | float | str) or one == other)


def _joined(calls: Sequence[DenoiserCall]) -> DenoiserCall:
    first, rows = calls[0], rows_of(calls[0])
    if any((call.name, rows_of(call), call.kwargs.keys()) != (first.name, rows, first.kwargs.keys()) for call in calls):
        raise _Differs
    if any(len(call.args) != len(first.args) for call in calls):
        raise _Differs
    args = tuple(_join([call.args[place] for call in calls], rows, place == 1) for place in range(len(first.args)))
    kwargs = {
        name: _join([call.kwargs[name] for call in calls], rows, name in TIMESTEPS, name in NOT_OF_ROWS)
        for name in first.kwargs
    }
    return first._replace(args=args, kwargs=kwargs)


def _join(values: list[Any], rows: int, timestep: bool = False, shared: bool = False) -> Any:
    one = values[0]
    if timestep:
        every = [torch.as_tensor(value).reshape(-1) for value in values]
        return torch.cat([value.expand(rows) if value.numel() == 1 else value for value in every])
    if isinstance(one, Tensor) and not shared and one.ndim and one.shape[0] == rows:
        if any(value.shape != one.shape for value in values):
            raise _Differs
        return torch.cat(values)
    if isinstance(one, dict):
        return {name: _join([value[name] for value in values], rows, False, shared) for name in one}
    if isinstance(one, tuple | list) and not shared:
        return type(one)(_join(list(parts), rows) for parts in zip(*values))
    if not all(_same(one, value, 0.0) for value in values[1:]):
        raise _Differs
    return one


def _split(output: Any, parts: int) -> list[Any]:
    if isinstance(output, Tensor):
        return list(output.chunk(parts))
    if isinstance(output, dict):
        split = {name: _split(value, parts) for name, value in output.items()}
        return [type(output)(**{name: values[part] for name, values in split.items()}) for part in range(parts)]
    split = [_split(value, parts) for value in output]
    return [type(output)(values[part] for values in split) for part in range(parts)]
