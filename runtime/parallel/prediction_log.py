"""The log of a run's predictions in ComfyUI's process, from which the run can be resumed; see resume.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

IN_MEMORY = 1 << 30
"""Bytes of predictions that are kept in memory; later ones go to a temporary folder."""


class PredictionLog:
    """The predictions of calls 0, 1, ... of one run. A context manager, at whose end the folder is removed."""

    def __init__(self) -> None:
        self._kept: list[Tensor | Path] = []
        self._nbytes = 0
        self._folder: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> PredictionLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, call: int, payload: bytes) -> None:
        """Adds the prediction of a call, as `to_payload` made it. One that is known already is ignored."""
        if call != len(self._kept):
            return
        if self._nbytes + len(payload) <= IN_MEMORY:
            self._nbytes += len(payload)
            self._kept.append(_read(payload))
            return
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="compact-parallel-log-")
        path = Path(self._folder.name) / f"{call}.safetensors"
        path.write_bytes(payload)
        self._kept.append(path)

    def predictions(self) -> tuple[Tensor, ...]:
        """All predictions; those in the folder are mapped."""
        return tuple(
            kept if isinstance(kept, Tensor) else safetensors.torch.load_file(kept)["prediction"] for kept in self._kept
        )


def to_payload(prediction: Tensor) -> bytes:
    """A prediction as bytes, on a worker."""
    return safetensors.torch.save({"prediction": prediction.detach().cpu().contiguous()})


def _read(payload: bytes) -> Tensor:
    return safetensors.torch.load(payload)["prediction"]
