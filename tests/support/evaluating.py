"""Evaluates a model with and without its sharding, outside of ComfyUI's sampler, and compares the two."""

from __future__ import annotations

from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.failures import refusing_own_failures


def evaluate_whole(sharding, *args, **kwargs):
    """The model's output without sharding: the hooks are taken off and put back."""
    attached = sharding.attached
    options = kwargs.pop("transformer_options", {})
    sharding.detach()
    try:
        return sharding.module(*args, transformer_options=dict(options), **kwargs)
    finally:
        if attached:
            sharding.attach()


def evaluate_split(sharding, slots, *args, **kwargs):
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


def split_error(sharding, slots, *args, **kwargs):
    """The relative error of one sharded evaluation on these inputs, with that of a compressing wire."""
    whole = evaluate_whole(sharding, *args, **kwargs)
    return difference(evaluate_split(sharding, slots, *args, **kwargs), whole)
