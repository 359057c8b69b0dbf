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
from .wrappers import wrapped_by_others

# Keyword arguments of models whose batch is the frames of one video.
FRAMES = ("num_video_frames", "image_only_indicator")
WITHIN = "patches inside of the model may go by the whole batch"


def rows_of(rows: int, conditions: int, groups: int) -> list[list[int]]:
    """The rows of every group: the same entries of each condition, divided as evenly as possible."""
    entries = rows // conditions
    shares = torch.arange(entries).tensor_split(groups)
    return [
        [condition * entries + int(entry) for condition in range(conditions) for entry in share] for share in shares
    ]


class DataParallel:
    """The APPLY_MODEL wrapper of the data axis. Exact: every row is evaluated once, by one group.

    A call that may not be divided is evaluated whole by every group, and the report says why.
    """

    def __init__(self, axis: Axis, ledger: Ledger, *, whole: bool = False) -> None:
        """`whole`: no call may be divided, as code inside the model may depend on the whole batch."""
        self._axis = axis
        self._ledger = ledger
        self._whole = whole

    def __call__(
        self,
        executor: Callable,
        x: Tensor,
        t: Tensor,
        c_concat: Tensor | None,
        c_crossattn: Tensor | None,
        control: Any,
        transformer_options: dict,
        **conditioning: Any,
    ) -> Tensor:
        """The model's prediction for `x` (R, ...) at `t` (R, ...)."""
        conditions = len(transformer_options.get("cond_or_uncond") or [0])
        shares = rows_of(x.shape[0], conditions, self._axis.size)
        own = shares[self._axis.index]
        try:
            if self._whole:
                raise _Whole(WITHIN)
            if sum(map(len, shares)) < x.shape[0]:
                raise _Whole("the batch is not one of the same entries for every condition")
            _check(shares, transformer_options, conditioning)
            given = [_narrow(value, own, x.shape[0]) for value in (x, t, c_concat, c_crossattn, control)]
            narrow = {name: _narrow(value, own, x.shape[0]) for name, value in conditioning.items()}
        except _Whole as reason:
            self._ledger.shared("data", False, str(reason))
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conditioning)
        self._ledger.shared("data", True)
        return self._gather(executor(*given, transformer_options, **narrow), shares)

    def _gather(self, own: Tensor, shares: list[list[int]]) -> Tensor:
        own = own.contiguous()
        whole = own.new_empty((sum(map(len, shares)), *own.shape[1:]))
        parts = {other: own.new_empty((len(shares[other]), *own.shape[1:])) for other in self._axis.others()}
        for _ in parts:
            self._ledger.sent(own.numel() * own.element_size(), 2 * own.numel())
        exchange(self._axis, dict.fromkeys(parts, own), parts, self._ledger)
        for group, part in {**parts, self._axis.index: own}.items():
            whole[shares[group]] = part
        return whole


class _Whole(Exception):
    """The call may not be divided; the message says why."""


def _check(shares: list[list[int]], options: Mapping[str, Any], conditioning: Mapping[str, Any]) -> None:
    if not all(shares):
        raise _Whole("there were fewer batch entries than groups")
    if any(conditioning.get(name) is not None for name in FRAMES):
        raise _Whole("the batch is the frames of one video")
    # Such code may hold values for certain entries, or decide by all of them.
    patches = [kind for kind in ("patches", "patches_replace") if any(options.get(kind, {}).values())]
    if patches or wrapped_by_others(options, "diffusion_model"):
        raise _Whole(WITHIN)
    if "ar_state" in options:
        raise _Whole("the sampler keeps what the model remembers of the whole batch")


def _narrow(value: Any, own: list[int], rows: int) -> Any:
    """Cuts all tensors in `value` to the group's rows; tensors with a single row for all stay as they are."""
    if isinstance(value, Tensor):
        if value.ndim == 0 or value.shape[0] == 1:
            return value
        if value.shape[0] != rows:
            raise _Whole("the conditioning does not have one row for each batch entry")
        return value[own]
    if isinstance(value, Mapping):
        return {key: _narrow(part, own, rows) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_narrow(part, own, rows) for part in value)
    return value
