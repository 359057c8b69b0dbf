"""Compares one sharded with one full evaluation of a model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .failures import refusing_own_failures
from .hooks import Hooked, Slots


def evaluate_whole(sharding: Hooked, *args: Any, **kwargs: Any) -> Any:
    """The model's output without sharding: the hooks are taken off and put back."""
    attached = sharding.attached
    options = kwargs.pop("transformer_options", {})
    sharding.detach()
    try:
        return sharding.module(*args, transformer_options=dict(options), **kwargs)
    finally:
        if attached:
            sharding.attach()


def evaluate_split(sharding: Hooked, slots: Slots, *args: Any, **kwargs: Any) -> Any:
    """The model's output with sharding. Advances a compressing wire by one call."""
    attached = sharding.attached
    options = kwargs.pop("transformer_options", {})
    override = sharding.attention_override(options.get("optimized_attention_override"))
    if not attached:
        sharding.attach()
    try:
        sharding.begin_forward(slots)
        with refusing_own_failures():
            return sharding.module(
                *args, transformer_options={**options, "optimized_attention_override": override}, **kwargs
            )
    finally:
        if not attached:
            sharding.detach()


def difference(split: Any, whole: Any) -> float:
    """||split - whole|| / ||whole||; the largest of them for several outputs (video and sound)."""
    pairs = [(split, whole)] if isinstance(whole, Tensor) else list(zip(split, whole))
    return max(float((split - whole).double().norm() / whole.double().norm()) for split, whole in pairs)


def self_check(sharding: Hooked, slots: Slots, *args: Any, **kwargs: Any) -> float:
    """Returns the relative error of one sharded evaluation of the model on these inputs, the same on every rank.

    It includes the error of a compressing wire.
    """
    whole = evaluate_whole(sharding, *args, **kwargs)
    return difference(evaluate_split(sharding, slots, *args, **kwargs), whole)
