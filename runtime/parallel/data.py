"""Data parallelism: the batch entries of a model call are divided over groups of ranks.

The batch is divided at the model, not at the job: every rank runs the sampler on the whole batch. So noise, masks,
guiders and step parallelism need no change, and one latent per entry and call crosses the link.

R rows of a model call: n conditions x B batch entries, entries varying fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..attention.axis import Axis, exchange
from ..report.ledger import Ledger


def rows_of(rows: int, conditions: int, groups: int) -> list[list[int]]:
    """The rows of every group: the same entries of each condition, divided as evenly as possible."""
    entries = rows // conditions
    shares = torch.arange(entries).tensor_split(groups)
    return [
        [condition * entries + int(entry) for condition in range(conditions) for entry in share] for share in shares
    ]


class DataParallel:
    """One axis of a rank over which batch entries are divided. Exact: every row is evaluated once, by one group.

    A call that may not be divided is evaluated whole by every group, and the report says why.
    """

    def __init__(self, axis: Axis, ledger: Ledger) -> None:
        self._axis = axis
        self._ledger = ledger

    def __call__(
        self,
        evaluate: Callable[..., Tensor],
        given: tuple[Any, ...],
        named: Mapping[str, Any],
        *,
        conditions: int,
        whole: str = "",
    ) -> Tensor:
        """The prediction of a model for all rows, (R, ...). Collective.

        Args:
            evaluate: the model, called as evaluate(*given, **named).
            given, named: its arguments; the first of `given` is the latent (R, ...). Tensors with R rows, also within
                dicts, lists and tuples, are cut to the group's rows; those with one row for all stay as they are.
            conditions: n.
            whole: why this call may not be divided; empty if it may.
        """
        rows = given[0].shape[0]
        shares = rows_of(rows, conditions, self._axis.size)
        local = shares[self._axis.index]
        try:
            if whole:
                raise _Whole(whole)
            if sum(map(len, shares)) < rows:
                raise _Whole("the batch is not one of the same entries for every condition")
            if not all(shares):
                raise _Whole("there were fewer batch entries than groups")
            narrow = [_narrow(value, local, rows) for value in given]
            narrow_named = {name: _narrow(value, local, rows) for name, value in named.items()}
        except _Whole as reason:
            self._ledger.shared(self._axis.name, False, str(reason))
            return evaluate(*given, **named)
        self._ledger.shared(self._axis.name, True)
        return self._gather(evaluate(*narrow, **narrow_named), shares)

    def _gather(self, local: Tensor, shares: list[list[int]]) -> Tensor:
        local = local.contiguous()
        whole = local.new_empty((sum(map(len, shares)), *local.shape[1:]))
        received = {other: local.new_empty((len(shares[other]), *local.shape[1:])) for other in self._axis.others()}
        for _ in received:
            self._ledger.sent(local.numel() * local.element_size(), 2 * local.numel())
        exchange(self._axis, dict.fromkeys(received, local), received, self._ledger)
        for group, rows in {**received, self._axis.index: local}.items():
            whole[shares[group]] = rows
        return whole


class _Whole(Exception):
    """The call may not be divided; the message says why."""


def _narrow(value: Any, local: list[int], rows: int) -> Any:
    """Cuts all tensors in `value` to the group's rows; tensors with a single row for all stay as they are."""
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] == 1:
            return value
        if value.shape[0] != rows:
            raise _Whole("the conditioning does not have one row for each batch entry")
        return value[local]
    if isinstance(value, Mapping):
        return {key: _narrow(part, local, rows) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_narrow(part, local, rows) for part in value)
    return value
