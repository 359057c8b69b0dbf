"""The progress of a pipeline's run: its steps and previews on the node, in the terminal and in the panel."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.utils
import latent_preview
from torch import Tensor
from tqdm.auto import tqdm

from ...pipelines.progress import read_progress
from ...report.live import LiveRun, live


class PipelineProgress:
    """Passes on the steps of worker 0. `steps`: their expected number; some schedulers make more."""

    def __init__(self, run: LiveRun, steps: int) -> None:
        self._run, self._steps = run, steps
        self._previewers: dict[str, Any] = {}

    def __enter__(self) -> PipelineProgress:
        self._terminal = tqdm(total=self._steps)
        self._node = comfy.utils.ProgressBar(self._steps)
        return self

    def __exit__(self, *exception: object) -> None:
        self._terminal.close()

    def __call__(self, step: int, total: int, payload: bytes) -> None:
        """Handles the end of step `step`, from 0."""
        figures, name, latent = read_progress(payload)
        done, total = step + 1, max(step + 1, self._steps)
        self._terminal.total = total
        self._terminal.update(done - self._terminal.n)
        live().step(self._run, done, total, figures)
        self._node.update_absolute(done, total, self._preview(name, latent) if latent is not None else None)

    def _preview(self, name: str, latent: Tensor) -> Any:
        """A picture of a latent (B, C, ...). None without previews, and for a model with other latents than usual."""
        device = comfy.model_management.get_torch_device()
        if name not in self._previewers:
            latents = getattr(comfy.latent_formats, name)()
            fits = latents.latent_channels == latent.shape[1]
            self._previewers[name] = latent_preview.get_previewer(device, latents) if fits else None
        previewer = self._previewers[name]
        return previewer.decode_latent_to_preview_image("JPEG", latent.to(device)) if previewer is not None else None
