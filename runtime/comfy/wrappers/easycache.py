"""EasyCache under CFG parallelism: the group that evaluates the first condition decides for all groups.

ComfyUI's EasyCache decides by the change of the first condition whether to skip a call; all other conditions follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...attention.axis import Axis, exchange
from ...attention.unsupported import Unsupported
from ...parallel.cfg import owners
from ...report.ledger import Ledger


@dataclass
class _Decision:
    """The state of one call.

    `together`: the uuids of the conditions batched with the first. `told`: the leader's decision is known.
    `magnitude`: sum and count of |output| of the own conditions among `together`.
    """

    together: set[Any]
    told: bool = False
    skips: bool = False
    magnitude: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))


class SharedEasyCache:
    """The wrappers of a job with cfg_degree; they do nothing for models without EasyCache.

    Exact: the groups skip the same calls as one device whose memory holds all conditions as one batch, each with what
    it has cached of its own conditions.
    """

    def __init__(self, axis: Axis, ledger: Ledger) -> None:
        self._axis = axis
        self._ledger = ledger
        self._first: tuple[int, int] | None = None
        self._leader: int | None = None
        self._decision: _Decision | None = None
        self._alone = False

    def call(
        self, executor: Callable, model: Any, conds: list, x_in: Tensor, timestep: Tensor, model_options: dict
    ) -> list[Tensor]:
        """The CALC_COND_BATCH wrapper around CfgParallel: finds out which group decides in this call.

        If every call has one condition only, each group evaluates it and EasyCache needs no help.
        Raises Unsupported if the first condition moves from group to group during the run.
        """
        holder = _easycache(model_options.get("transformer_options", {}))
        if holder is None or not holder.should_do_easycache(timestep) or holder.is_past_end_timestep(timestep):
            return executor(model, conds, x_in, timestep, model_options)
        self._decision = self._begin(conds, x_in, timestep)
        outputs = executor(model, conds, x_in, timestep, model_options)
        decision, self._decision = self._decision, None
        if decision is not None:
            self._decide(decision)  # in case the model never called the DIFFUSION_MODEL wrappers
            if not decision.skips:
                self._share_magnitude(decision, holder)
        return outputs

    def forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """The DIFFUSION_MODEL wrapper around EasyCache: the leader sends whether it skips, the others wait for it."""
        decision = self._decision
        if decision is None:
            return executor(*args, **kwargs)
        options = next(value for value in (*args, *kwargs.values()) if _easycache(value) is not None)
        holder = _easycache(options)
        if self._axis.index != self._leader:
            self._decide(decision)
            holder.initial_step = False  # this group does not have the first condition
            holder.skip_current_step = decision.skips
            output = executor(*args, **kwargs)
        elif holder.initial_step or holder.has_first_cond_uuid(options["uuids"]):
            executor.original = partial(self._evaluate, decision, executor.original)
            output = executor(*args, **kwargs)
            self._decide(decision, skips=True)
        else:
            output = executor(*args, **kwargs)
        _add_magnitude(decision, output, options["uuids"], holder.output_channels)
        return output

    def _begin(self, conds: list, x_in: Tensor, timestep: Tensor) -> _Decision | None:
        owner = owners(conds, self._axis.size)
        if len(owner) < 2 and self._first is None:
            self._alone = True
            return None
        if self._alone or len(owner) < 2:
            raise _mixed()
        entries = _entries(conds, x_in, timestep)
        if self._first is None and entries:
            self._first = _batch(entries)[-1]
            self._leader = owner[self._first[0]]
            own = {place: entry for place, entry in entries.items() if owner[place[0]] == self._leader}
            if _batch(own)[-1] != self._first:
                raise _moves()
        if self._first is None:
            return None
        if owner.get(self._first[0]) != self._leader:
            raise _moves()
        if self._first not in entries:
            return None
        decision = _Decision({entries[place].uuid for place in _batch(entries)})
        if self._axis.index not in {owner[index] for index, _ in entries}:
            self._decide(decision)  # no forward of this group comes before its predictions are exchanged
        return decision

    def _evaluate(self, decision: _Decision, original: Callable, *args: Any, **kwargs: Any) -> Any:
        self._decide(decision)
        return original(*args, **kwargs)

    def _decide(self, decision: _Decision, *, skips: bool = False) -> None:
        """Once per call: the leader sends to the other groups whether it `skips`, and they receive it."""
        if decision.told:
            return
        decision.told = True
        said = torch.tensor([skips])
        if self._axis.index == self._leader:
            exchange(self._axis, dict.fromkeys(self._axis.others(), said), {}, self._ledger)
        else:
            exchange(self._axis, {}, {self._leader: said}, self._ledger)
        decision.skips = bool(said)

    def _share_magnitude(self, decision: _Decision, holder: Any) -> None:
        """Sum the magnitude over the groups: EasyCache uses the mean |output| of the first condition's whole batch."""
        if self._axis.index != self._leader:
            exchange(self._axis, {self._leader: decision.magnitude}, {}, self._ledger)
            return
        others = {other: torch.empty_like(decision.magnitude) for other in self._axis.others()}
        exchange(self._axis, {}, others, self._ledger)
        total, count = sum(others.values(), decision.magnitude).tolist()
        if holder.has_output_prev_norm() and count:
            holder.output_prev_norm = torch.full_like(holder.output_prev_norm, total / count)


def _easycache(options: Any) -> Any:
    holder = options.get("easycache") if isinstance(options, dict) else None
    return holder if getattr(holder, "name", "") == "EasyCache" else None


def _entries(conds: list, x_in: Tensor, timestep: Tensor) -> dict[tuple[int, int], Any]:
    """{(index in conds, place in it): what ComfyUI evaluates for this condition now}, in ComfyUI's order."""
    found = {
        (index, place): comfy.samplers.get_area_and_mult(cond, x_in, timestep)
        for index, several in enumerate(conds)
        for place, cond in enumerate(several or ())
        if "default" not in cond
    }
    return {place: entry for place, entry in found.items() if entry is not None}


def _batch(entries: dict[tuple[int, int], Any]) -> list[tuple[int, int]]:
    """The conditions that ComfyUI can batch with the first; the last of them comes first in the batch, at any size."""
    first = next(iter(entries.values()))
    fits = comfy.samplers.can_concat_cond
    return [place for place, entry in entries.items() if entry.hooks == first.hooks and fits(entry, first)]


def _add_magnitude(decision: _Decision, output: Any, uuids: list, channels: int) -> None:
    video = output[0] if isinstance(output, list) else output
    for uuid, own in zip(uuids, video[:, :channels].chunk(len(uuids))):
        if uuid in decision.together:
            decision.magnitude += torch.tensor([float(own.abs().sum(dtype=torch.float64)), own.numel()])


def _mixed() -> Unsupported:
    return Unsupported(
        "EasyCache decides by the first condition what all of them do, and in this workflow some calls ask for one and "
        "others for more (CFG is 1 in a part of the run), which workers share in different ways; set cfg_degree to 1, "
        "or use LazyCache."
    )


def _moves() -> Unsupported:
    return Unsupported(
        "EasyCache decides by the first condition what all of them do, and in this workflow that one moves from worker "
        "to worker on the way; set cfg_degree to 1, or use LazyCache."
    )
