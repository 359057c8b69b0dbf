"""A folder of tensors, one file each, which the processes of one machine write, read and map."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Set
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ..tensor_hash import known_hash

_SUFFIX = ".safetensors"
_LISTING = "models.json"


class FolderStore:
    """A Store in a folder."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)

    @property
    def address(self) -> tuple[str, ...]:
        """This class and the folder."""
        return "runtime.pool.local.folder_store:FolderStore", str(self.directory)

    def put(self, tensor: torch.Tensor) -> str:
        """Write a tensor unless its complete file exists. Returns its key. Raises OSError if it cannot be written."""
        key = known_hash(tensor)
        path = self.directory / f"{key}{_SUFFIX}"
        if not _holds(path, tensor.nbytes):
            data = tensor.detach().cpu().contiguous()
            # of its own: another process may be writing the same tensor
            partial = path.with_name(f"{key}-{os.getpid()}.partial")
            try:
                safetensors.torch.save_file({"tensor": data}, partial)
                partial.replace(path)
            except (safetensors.SafetensorError, OSError) as error:
                what = f"A tensor of {_size(data.nbytes)} for the workers"
                raise OSError(_not_written(self.directory, what, error)) from error
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
        return key

    def get(self, key: str) -> torch.Tensor:
        """Map the tensor with this key. Its pages are shared by all processes that map it (copy on write).

        Raises OSError if its file is gone or truncated.
        """
        path = self.directory / f"{key}{_SUFFIX}"
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return file.get_tensor("tensor")
        except (OSError, safetensors.SafetensorError) as error:
            if not self.directory.is_dir():
                raise OSError(_removed(self.directory)) from error
            raise OSError(
                f"{path}, a tensor for the workers, was removed or cut short while the run needed it ({error}). Run it "
                "again; if it happens again, set TMPDIR to a folder that nobody cleans and start ComfyUI again."
            ) from error

    def keep_only(self, keys: Set[str], weights: Set[str] = frozenset()) -> None:
        """Delete the files of all other tensors. See Store.keep_only.

        Windows deletes no file that is mapped; a later call does.
        """
        kept = keys | weights | self._previous_models(weights)
        for path in self.directory.glob(f"*{_SUFFIX}"):
            if path.stem not in kept:
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def _previous_models(self, weights: Set[str]) -> set[str]:
        """The keys of the models that were used before these, which are listed as the current ones."""
        listing = self.directory / _LISTING
        current, previous = _listed(listing)
        if set(current) != weights:
            current, previous = sorted(weights), current
            text = json.dumps([current, previous])
            try:
                listing.write_text(text, encoding="utf-8")
            except OSError as error:
                what = f"The list of what is stored, {_size(len(text))},"
                raise OSError(_not_written(self.directory, what, error)) from error
        return set(previous)


def _holds(path: Path, nbytes: int) -> bool:
    """Whether a safetensors file with `nbytes` of data exists and has its full length (by its header)."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            return os.fstat(file.fileno()).st_size == 8 + header_bytes + nbytes
    except OSError:
        return False


def _not_written(directory: Path, what: str, error: Exception) -> str:
    if not directory.is_dir():
        return _removed(directory)
    free = f"where {_size(shutil.disk_usage(directory).free)} are free"
    return (
        f"{what} cannot be written to {directory}, {free}: {error}. Free some space there, or set TMPDIR to a folder "
        "on another disk and start ComfyUI again."
    )


def _removed(directory: Path) -> str:
    return (
        f"The folder {directory}, by which tensors go to the workers, was removed while the run needed it. Run it "
        "again; the pool makes another one."
    )


def _size(nbytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes} bytes"


def _listed(listing: Path) -> tuple[list[str], list[str]]:
    """The keys of the current and the previous models. If the listing is lost or broken, tensors are written again."""
    try:
        current, previous = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return [], []
    return current, previous
