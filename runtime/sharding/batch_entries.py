"""Names the entries of a batch, so that compression finds the residual stream of each again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..attention.unsupported import WAY_OUT, Unsupported
from .hooks import Slots


def batch_slots(options: Mapping[str, Any], batch: int) -> Slots:
    """(cond, sample) of every batch entry; ComfyUI stacks the conds of a call, each with all its samples.

    A uuid alone does not identify a cond: for every cond with an area ComfyUI adds one of the other prediction, with
    the same area and the same uuid (create_cond_with_same_area_if_none), and evaluates both in one batch. And context
    windows evaluate the same cond on different frames.

    Args:
        options: transformer_options. "uuids" has one entry per cond in the call, "cond_or_uncond" the number of the
            prediction it is for; a caller that gives neither evaluates one cond. "context_window" has the frames.
        batch: B, a multiple of the number of conds.
    Raises:
        Unsupported: a wrapper evaluates only some of the batch entries at a time.
    """
    uuids = options.get("uuids") or [""]
    predictions = options.get("cond_or_uncond") or [0] * len(uuids)
    samples, rest = divmod(batch, len(uuids))
    if rest:
        raise Unsupported(
            f"A patch of this workflow evaluates {batch} of the batch entries of {len(uuids)} conditions at a time; "
            f"{WAY_OUT}"
        )
    frames = getattr(options.get("context_window"), "index_list", "")
    conds = [f"{prediction} {uuid} {frames}".rstrip() for prediction, uuid in zip(predictions, uuids)]
    return tuple((cond, sample) for cond in conds for sample in range(samples))
