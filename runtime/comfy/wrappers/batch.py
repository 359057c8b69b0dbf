"""Data parallelism in ComfyUI: the APPLY_MODEL wrapper that divides the batch entries of a model call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...parallel.data import DataParallel
from ..describe.customisations import scan_call

# Keyword arguments of models whose batch is the frames of one video.
FRAMES = ("num_video_frames", "image_only_indicator")
WITHIN = "patches inside of the model may go by the whole batch"


class SharedBatch:
    """The wrapper of a job with data_degree."""

    def __init__(self, data: DataParallel, patcher: Any, *, whole: bool = False) -> None:
        """`whole`: no call may be divided, as code inside the model may depend on the whole batch."""
        self._data = data
        self._patcher = patcher
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
        """The model's prediction for `x` (R, ...) at `t` (R, ...); R rows, conditions x batch entries."""

        def evaluate(*given: Any, **named: Any) -> Tensor:
            return executor(*given, transformer_options, **named)

        return self._data(
            evaluate,
            (x, t, c_concat, c_crossattn, control),
            conditioning,
            conditions=len(transformer_options.get("cond_or_uncond") or [0]),
            whole=WITHIN if self._whole else _reason_against(self._patcher, transformer_options, conditioning),
        )


def _reason_against(patcher: Any, options: Mapping[str, Any], conditioning: Mapping[str, Any]) -> str:
    """Why the entries of this call cannot go to different workers; empty if they can."""
    if any(conditioning.get(name) is not None for name in FRAMES):
        return "the batch is the frames of one video"
    # Such code may hold values for certain entries, or decide by all of them.
    custom = scan_call(patcher, options)
    if custom.patches or custom.wraps(WrappersMP.DIFFUSION_MODEL):
        return WITHIN
    return "the sampler keeps what the model remembers of the whole batch" if "ar_state" in options else ""
