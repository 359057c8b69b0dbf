"""Hashes of tensors by content, and cheap values that show whether a tensor was written to."""

from __future__ import annotations

import blake3
import torch
from torch.multiprocessing.reductions import StorageWeakRef

# To detect changes, tensors up to this size (that of a sample) are hashed as a whole: the many tensors of a LoRA are
# checked twice in every run.
GLANCE_BYTES = 64 * 1024
_WINDOWS = 64
_WINDOW_BYTES = 1024


def content_hash(tensor: torch.Tensor) -> str:
    """The hash of a contiguous CPU tensor's bytes, shape and dtype."""
    digest = blake3.blake3(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), max_threads=blake3.blake3.AUTO)
    digest.update(_bytes(tensor).numpy())
    return digest.hexdigest(length=20)


class _KnownHashes:
    """Caches the hashes of large tensors, so that weights of gigabytes are read once and not at every run.

    A tensor is identified by its memory (its storage while that lives, offset, shape, dtype; only contiguous tensors
    are cached). It counts as unchanged while its version (torch counts writes, though not those to inference tensors or
    through `.data`) and a sample of its bytes (64 windows of 1 KiB, evenly spread from first to last) are unchanged.
    """

    def __init__(self) -> None:
        self._known: dict[tuple, tuple[StorageWeakRef, tuple, str]] = {}

    def hash_of(self, tensor: torch.Tensor) -> str:
        """See `known_hash`."""
        if not tensor.is_contiguous() or tensor.numel() * tensor.element_size() <= GLANCE_BYTES:
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


_known = _KnownHashes()


def known_hash(tensor: torch.Tensor) -> str:
    """`content_hash` of a tensor on any device, computed once while the tensor is unchanged."""
    return _known.hash_of(tensor)
