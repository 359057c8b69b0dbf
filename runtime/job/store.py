"""A shared store of tensors: each is written once, under the hash of its content, and mapped by every worker.

A LoRA that stays the same is so sent once, however many runs use it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import blake3
import safetensors
import safetensors.torch
import torch

# A file and a mapping cost more than copying so few bytes into the job.
INLINE_BYTES = 64 * 1024
_SUFFIX = ".safetensors"


def content_hash(tensor: torch.Tensor) -> str:
    """The hash of a contiguous CPU tensor's bytes, shape and dtype."""
    digest = blake3.blake3(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), max_threads=blake3.blake3.AUTO)
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest(length=20)


def put(directory: Path, tensor: torch.Tensor) -> str:
    """Write a tensor unless it is there already. Returns its key. Raises OSError when the disk is full."""
    data = tensor.detach().cpu().contiguous()
    key = content_hash(data)
    path = directory / f"{key}{_SUFFIX}"
    if not path.exists():
        partial = path.with_suffix(".partial")
        safetensors.torch.save_file({"tensor": data}, partial)
        partial.rename(path)
    return key


def keep_only(directory: Path, keys: set[str]) -> None:
    """Delete every stored tensor but these. Workers that still map one keep it until they let go."""
    for path in directory.glob(f"*{_SUFFIX}"):
        if path.stem not in keys:
            path.unlink(missing_ok=True)


@dataclass
class StoreReader:
    """A worker's side: maps tensors by key, and keeps the mappings that the current job uses."""

    directory: Path
    _mapped: dict[str, torch.Tensor] = field(default_factory=dict)

    def get(self, key: str) -> torch.Tensor:
        """The tensor of this key, mapped: its pages are shared with the other workers until it is written to."""
        if key not in self._mapped:
            with safetensors.safe_open(self.directory / f"{key}{_SUFFIX}", framework="pt") as file:
                self._mapped[key] = file.get_tensor("tensor")
        return self._mapped[key]

    def keep_only(self, keys: set[str]) -> None:
        """Let go of every mapping but these."""
        self._mapped = {key: tensor for key, tensor in self._mapped.items() if key in keys}
