"""CFG parallelism: the conditions of a model call (cond, uncond ...) are divided over groups of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention.axis import Axis, exchange
from ..report.ledger import Ledger


def owners(conds: Sequence[Any], groups: int) -> dict[int, int]:
    """{index of a condition: group that evaluates it}, round-robin, without conditions that are None or empty."""
    active = [index for index, cond in enumerate(conds) if cond]
    return {index: turn % groups for turn, index in enumerate(active)}


class CfgParallel:
    """The cfg axis of one rank. Exact: every condition is evaluated once, by one group."""

    def __init__(self, axis: Axis, ledger: Ledger) -> None:
        self._axis = axis
        self._ledger = ledger

    def elsewhere(self, conds: Sequence[Any]) -> list[Any]:
        """The conditions of a call that other groups evaluate; none if there is only one, which all evaluate."""
        owner = owners(conds, self._axis.size)
        return [conds[index] for index in owner if owner[index] != self._axis.index] if len(owner) > 1 else []

    def __call__(self, conds: Sequence[Any], evaluate: Callable[[list[Any]], list[Tensor]]) -> list[Tensor]:
        """The predictions of all conditions, equal on all ranks. Collective.

        Args:
            conds: one entry per prediction; None or an empty one is evaluated by nobody.
            evaluate: returns the predictions (B, ...) of such a list, all of one shape, with any values for None.
        """
        owner = owners(conds, self._axis.size)
        self._ledger.shared("cfg", len(owner) > 1)
        if len(owner) < 2:
            return evaluate(list(conds))
        mine = [cond if owner.get(index) == self._axis.index else None for index, cond in enumerate(conds)]
        outputs = [output.contiguous() for output in evaluate(mine)]
        self._share(outputs, owner)
        return outputs

    def _share(self, outputs: list[Tensor], owner: dict[int, int]) -> None:
        groups = range(self._axis.size)
        held = {group: [index for index in owner if owner[index] == group] for group in groups}
        local = held[self._axis.index]
        sends, receives = {}, {}
        for other in self._axis.others():
            if local:
                sends[other] = torch.stack([outputs[index] for index in local])
                values = sends[other].numel()
                self._ledger.sent(values * sends[other].element_size(), 2 * values)
            if held[other]:
                receives[other] = torch.empty_like(torch.stack([outputs[index] for index in held[other]]))
        exchange(self._axis, sends, receives, self._ledger)
        for other, received in receives.items():
            for index, output in zip(held[other], received):
                outputs[index] = output
