"""Names of torch's functions: which make the host wait, which take tensors of two devices, which launch nothing."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


WAITS = _names(
    "item tolist __float__ __int__ __bool__ __index__ nonzero masked_select unique equal __contains__ allclose "
    "is_nonzero argwhere bincount linalg_eigh"
)
"""Functions that make the host wait for the device."""
CROSSES = _names(
    "copy_ __getitem__ __setitem__ to cpu cuda type_as __get__ __set__ index_put_ _has_compatible_shallow_copy_type"
)
"""Functions that may be given tensors of both devices."""
LAUNCHES_NOTHING = _names(
    "__get__ __set__ __getitem__ view view_as reshape flatten unflatten transpose permute expand expand_as narrow "
    "split chunk unbind squeeze unsqueeze select movedim swapaxes t tensor_split detach as_strided data_ptr size "
    "stride dim numel element_size is_contiguous is_floating_point is_complex storage_offset untyped_storage "
    "unfold split_with_sizes as_subclass __len__ requires_grad_ is_inference empty new_empty empty_like "
    "empty_strided record_stream ndimension contiguous result_type promote_types broadcast_tensors is_pinned "
    "_has_compatible_shallow_copy_type __hash__ __repr__ __format__ __class__"
)
"""Functions that look at a tensor or allocate memory, without a kernel. Copies by `reshape` and `contiguous` are not
seen."""
