"""A shared store of tensors: each is written once, under the hash of its content, and mapped by every worker.

A LoRA that stays the same is so sent once, however many runs use it.
"""

from __future__ import annotations

import contextlib
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
    """Write a tensor unless it is there already. Returns its key. Raises OSError where it cannot be written."""
    data = tensor.detach().cpu().contiguous()
    key = content_hash(data)
    path = directory / f"{key}{_SUFFIX}"
    if not path.exists():
        partial = path.with_suffix(".partial")
        try:
            safetensors.torch.save_file({"tensor": data}, partial)
            partial.rename(path)
        except safetensors.SafetensorError as error:
            raise OSError(
                f"A tensor of {data.nbytes / 1e6:.0f} MB for the workers cannot be written to {directory}: {error}. "
                "Free some space there, or set TMPDIR to another disk."
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return key


def keep_only(directory: Path, keys: set[str]) -> None:
    """Delete every stored tensor but these. Workers that still map one keep it until they let go.

    Windows deletes no file that is mapped; it goes with a later call.
    """
    for path in directory.glob(f"*{_SUFFIX}"):
        if path.stem not in keys:
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)


def get(directory: Path, key: str) -> torch.Tensor:
    """The tensor of this key, mapped anew: its pages are shared by all who map it, until one of them writes to his."""
    with safetensors.safe_open(directory / f"{key}{_SUFFIX}", framework="pt") as file:
        return file.get_tensor("tensor")
