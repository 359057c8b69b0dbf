"""Weights that are mapped from a file go back to the mapping when they leave the device: no worker copies them to the
host's memory. ComfyUI's own patcher would, at every change of a LoRA too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher
from torch import Tensor
from torch.overrides import TorchFunctionMode


def is_mapped(tensor: Tensor) -> bool:
    """Whether the values (of a quantised tensor: those that are stored) are mapped from a file.

    torch cannot tell where memory is from that it has not allocated itself; in a model's weights it is a mapping.
    """
    stored = getattr(tensor, "_qdata", tensor)
    plain = type(stored) in (Tensor, torch.nn.Parameter) and stored.device.type == "cpu"
    return plain and not stored.untyped_storage().resizable()


class MappedPatcher(ModelPatcher):
    """A ModelPatcher that keeps the mappings of its model's weights. Clones share them, as they share the model."""

    _unloading = False

    @classmethod
    def of(cls, patcher: ModelPatcher) -> ModelPatcher:
        """The patcher as one of this class, unless it is of a class of its own. Call it before its model is loaded."""
        if type(patcher) is ModelPatcher:
            patcher.__class__ = cls
            named = patcher.model.named_parameters()
            patcher.model.mapped_weights = {name: weight.data for name, weight in named if is_mapped(weight)}
        return patcher

    def load(self, *args: Any, **kwargs: Any) -> None:
        """See ModelPatcher.load, which may decide that a layer is to be patched in each call though it is on the device
        and patched already: where a part of the model was loaded before and the room has changed a little."""
        super().load(*args, **kwargs)
        for name, module in self.model.named_modules() if self.model.model_lowvram else ():
            for functions, kind in (("weight_function", "weight"), ("bias_function", "bias")):
                if f"{name}.{kind}" in self.backup and hasattr(module, functions):
                    others = [f for f in getattr(module, functions) if not isinstance(f, LowVramPatch)]
                    setattr(module, functions, others)

    def partially_unload(
        self, device_to: torch.device, memory_to_free: int = 0, force_patch_weights: bool = False
    ) -> int:
        """See ModelPatcher.partially_unload."""
        self._unloading = True
        try:
            with self._returning():
                return super().partially_unload(device_to, memory_to_free, force_patch_weights)
        finally:
            self._unloading = False

    def unpatch_model(self, device_to: torch.device | None = None, unpatch_weights: bool = True) -> Any:
        """See ModelPatcher.unpatch_model."""
        with self._returning():
            return super().unpatch_model(device_to, unpatch_weights)

    def pin_weight_to_device(self, key: str) -> None:
        """Pin a weight that stays on the host in a run, so that it is copied to the device faster in every call.

        What is pinned is a copy, within what this process may pin: CUDA refuses a mapping, or copies it page by page.
        A weight that is parked is needed no more.
        """
        management, mapping = comfy.model_management, self._mapped.get(key)
        if mapping is None or comfy.utils.get_attr(self.model, key).data_ptr() != mapping.data_ptr():
            super().pin_weight_to_device(key)
        elif not self._unloading and management.TOTAL_PINNED_MEMORY + mapping.nbytes <= management.MAX_PINNED_MEMORY:
            comfy.utils.set_attr_param(self.model, key, mapping.clone())
            super().pin_weight_to_device(key)
            if key not in self.pinned:
                comfy.utils.set_attr_param(self.model, key, mapping)

    def unpin_weight(self, key: str) -> None:
        """See ModelPatcher.unpin_weight."""
        pinned, mapping = key in self.pinned, self._mapped.get(key)
        super().unpin_weight(key)
        if pinned and mapping is not None and key not in self.backup:
            comfy.utils.set_attr_param(self.model, key, mapping)

    @property
    def _mapped(self) -> dict[str, Tensor]:
        """The mappings by name; none for a model that another node has put into a clone."""
        return getattr(self.model, "mapped_weights", {})

    @contextmanager
    def _returning(self) -> Iterator[None]:
        mapped = self._mapped
        changed = self.backup.keys() | self.hook_backup.keys()
        unchanged = {
            id(weight): (weight, mapped[name])
            for name, weight in self.model.named_parameters()
            if name in mapped and name not in changed and weight.device != mapped[name].device
        }
        with _Returning(unchanged):
            yield


class _Returning(TorchFunctionMode):
    """While active, moving a weight to its mapping's device gives the mapping. `weights`: {id: (weight, mapping)}; it
    holds the weights, so that no other tensor gets the id of one."""

    def __init__(self, weights: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._weights = weights

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and id(args[0]) in self._weights:
            weight, mapping = self._weights[id(args[0])]
            device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **kwargs)
            if device == mapping.device and dtype in (None, weight.dtype):
                return mapping
        return func(*args, **kwargs)
