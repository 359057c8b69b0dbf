"""A shared store of tensors: each is written once, to a file named by the hash of its content, and mapped by workers.

A LoRA or a ControlNet that stays the same is thus sent once, however many runs use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Set
from pathlib import Path

import blake3
import safetensors
import safetensors.torch
import torch
from torch.multiprocessing.reductions import StorageWeakRef

# Tensors up to this size are copied into the job, which costs less than a file and a mapping.
INLINE_BYTES = 64 * 1024
# To detect changes, tensors up to this size (that of a sample) are hashed as a whole: the many tensors of a LoRA are
# checked twice in every run.
GLANCE_BYTES = 64 * 1024
_SUFFIX = ".safetensors"
_LISTING = "models.json"
_WINDOWS = 64
_WINDOW_BYTES = 1024


def content_hash(tensor: torch.Tensor) -> str:
    """The hash of a contiguous CPU tensor's bytes, shape and dtype."""
    digest = blake3.blake3(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), max_threads=blake3.blake3.AUTO)
    digest.update(_bytes(tensor).numpy())
    return digest.hexdigest(length=20)


class KnownHashes:
    """Caches the hashes of large tensors, so that weights of gigabytes are read once and not at every run.

    A tensor is identified by its memory (its storage while that lives, offset, shape, dtype; only contiguous tensors
    are cached). It counts as unchanged while its version (torch counts writes, though not those to inference tensors or
    through `.data`) and a sample of its bytes (64 windows of 1 KiB, evenly spread from first to last) are unchanged.
    """

    def __init__(self) -> None:
        self._known: dict[tuple, tuple[StorageWeakRef, tuple, str]] = {}

    def hash_of(self, tensor: torch.Tensor) -> str:
        """`content_hash` of a tensor on any device."""
        if not tensor.is_contiguous() or tensor.numel() * tensor.element_size() <= INLINE_BYTES:
            return content_hash(tensor.detach().cpu().contiguous())
        storage = StorageWeakRef(tensor.untyped_storage())
        place = (storage.cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.dtype)
        state = (_version(tensor), _sample(tensor))
        known = self._known.get(place)
        if known is None or known[0].expired() or known[1] != state:
            self._forget_the_dead()
            known = self._known[place] = (storage, state, content_hash(tensor.detach().cpu()))
        return known[2]

    def _forget_the_dead(self) -> None:
        self._known = {place: known for place, known in self._known.items() if not known[0].expired()}


def glance(tensor: torch.Tensor) -> tuple:
    """A cheap value that differs after a write to a tensor: a hash of its bytes; version and sample of a large tensor.

    Costs nothing noticeable, on any device. Empty for a meta tensor, a subclass or a layout that is not strided.
    """
    if tensor.is_meta or tensor.layout != torch.strided or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return ()
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if plain.nbytes <= GLANCE_BYTES:
        return (blake3.blake3(_bytes(plain).cpu().numpy()).digest(),)
    return _version(tensor), _sample(plain)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _sample(tensor: torch.Tensor) -> bytes:
    """The digest of a few windows of a contiguous tensor's bytes."""
    data = _bytes(tensor.detach())
    step = (data.numel() - _WINDOW_BYTES) // (_WINDOWS - 1)
    windows = data.as_strided((_WINDOWS, _WINDOW_BYTES), (step, 1), data.storage_offset())
    # The step is rounded down, so the last window is taken from the end.
    return blake3.blake3(torch.cat((windows[:-1].reshape(-1), data[-_WINDOW_BYTES:])).cpu().numpy()).digest()


_known = KnownHashes()


def put(directory: Path, tensor: torch.Tensor) -> str:
    """Write a tensor unless its complete file exists. Returns its key. Raises OSError if it cannot be written."""
    key = _known.hash_of(tensor)
    path = directory / f"{key}{_SUFFIX}"
    if not _holds(path, tensor.nbytes):
        data = tensor.detach().cpu().contiguous()
        partial = path.with_suffix(".partial")
        try:
            safetensors.torch.save_file({"tensor": data}, partial)
            partial.replace(path)
        except (safetensors.SafetensorError, OSError) as error:
            what = f"A tensor of {_size(data.nbytes)} for the workers"
            raise OSError(_not_written(directory, what, error)) from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return key


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


def keep_only(directory: Path, keys: Set[str], weights: Set[str] = frozenset()) -> None:
    """Delete every stored tensor but these.

    `weights` are the keys of models' tensors. They stay until two other sets of models have come: workflows may sample
    with two models in turn, and the workers keep as many. A worker that still maps a deleted file keeps its tensor.
    Windows deletes no file that is mapped; a later call does.
    """
    listing = directory / _LISTING
    current, previous = _listed(listing)
    if set(current) != weights:
        current, previous = sorted(weights), current
        text = json.dumps([current, previous])
        try:
            listing.write_text(text)
        except OSError as error:
            raise OSError(_not_written(directory, f"The list of what is stored, {_size(len(text))},", error)) from error
    for path in directory.glob(f"*{_SUFFIX}"):
        if path.stem not in keys | weights | set(previous):
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)


def _listed(listing: Path) -> tuple[list[str], list[str]]:
    """The keys of the current and the previous models. If the listing is lost or broken, tensors are written again."""
    try:
        current, previous = json.loads(listing.read_text())
    except (OSError, ValueError, TypeError):
        return [], []
    return current, previous


def get(directory: Path, key: str) -> torch.Tensor:
    """Map the tensor with this key. Its pages are shared by all processes that map it (copy on write).

    Raises OSError if its file is gone or truncated.
    """
    path = directory / f"{key}{_SUFFIX}"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.get_tensor("tensor")
    except (OSError, safetensors.SafetensorError) as error:
        if not directory.is_dir():
            raise OSError(_removed(directory)) from error
        raise OSError(
            f"{path}, a tensor for the workers, was removed or cut short while the run needed it ({error}). Run it "
            "again; if it happens again, set TMPDIR to a folder that nobody cleans and start ComfyUI again."
        ) from error
