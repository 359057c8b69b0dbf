"""The progress of a run: passes the sampler's steps to ComfyUI's callback, the terminal and the panel."""

from __future__ import annotations

import json
import time
from typing import Any

import safetensors.torch
import torch
from tqdm.auto import tqdm

from ...parallel.step.samplers import kind_of
from ...report.live import LiveRun, live
from ..shipping.sampling_job import Arguments


class Steps:
    """Counts the steps a sampler has done, and their total if it is known.

    ComfyUI tells a sampler's callback that there are as many steps as the schedule has. That is wrong for samplers with
    steps of their own (dpm_adaptive), and for other packs' samplers that exceed the schedule or restart their count.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.done = 0
        self._last = -1
        self._planned = 0 if kind_of(arguments.sampler).own_steps else len(arguments.sigmas) - 1

    @property
    def total(self) -> int:
        """The number of steps of the run; 0 if unknown."""
        return self._planned if self.done <= self._planned else 0

    def __call__(self, step: int) -> None:
        """Count the sampler's step `step`, from 0; a number smaller than the last means that its count restarted."""
        self.done += step - self._last if step >= self._last else step + 1
        self._last = step


class ProgressRelay:
    """Passes the workers' steps to ComfyUI's callback (previews, progress bar), to the terminal and to the panel.

    The callback gets its tensors on `device`, as in stock sampling: a previewer may keep its weights there.
    """

    def __init__(self, arguments: Arguments, run: LiveRun, device: torch.device) -> None:
        self._callback = arguments.callback
        self._run = run
        self._device = device
        self._steps = Steps(arguments)
        self._hidden = arguments.disable_pbar

    def __enter__(self) -> ProgressRelay:
        self._bar = tqdm(total=self._steps.total or None, disable=self._hidden)
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, step: int, total: int, payload: bytes) -> None:
        """Handle a callback from worker 0's sampler; `payload` holds the tensors ComfyUI would give its callback."""
        self._steps(step)
        self._bar.total = self._steps.total or None
        self._bar.update(self._steps.done - self._bar.n)
        tensors = safetensors.torch.load(payload)
        live().step(self._run, self._steps.done, self._steps.total, json.loads(bytes(tensors["figures"].tolist())))
        if self._callback is not None:
            self._callback(step, tensors["x0"].to(self._device), tensors["x"].to(self._device), total)


def watched(arguments: Arguments, run: LiveRun) -> Arguments:
    """`arguments` for a sampler that runs in this process, with a callback that also shows its steps in the panel."""
    steps, started = Steps(arguments), time.perf_counter()
    live().again(run)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> Any:
        steps(step)
        live().step(run, steps.done, steps.total, {"seconds": time.perf_counter() - started})
        return arguments.callback(step, x0, x, total) if arguments.callback is not None else None

    return arguments._replace(callback=callback)
