"""Latte's temporal blocks, which attend over the frames of one place, not over places.

Every rank has all frames of its places, so nothing is to be exchanged there. xfuser 0.7.0 knows these blocks but
exchanges all the same, which mixes the frames of different places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from .loading import load, part, replace


@contextmanager
def local_temporal_attention(transformer: nn.Module) -> Iterator[None]:
    """Keeps the attention of `transformer`'s temporal blocks on this rank, for the block's duration."""
    processors, usp = (load(f"xfuser.model_executor.layers.{name}") for name in ("attention_processor", "usp"))
    exchanging, local = part(processors, "USP"), part(usp, "attention")
    inside = [False]

    def attend(*args: Any, **kwargs: Any) -> Tensor:
        return (local if inside[0] else exchanging)(*args, **kwargs)

    def enter(*_: Any) -> None:
        inside[0] = True

    def leave(*_: Any) -> None:
        inside[0] = False

    with ExitStack() as stack:
        for module in transformer.modules():
            if getattr(module, "latte_temporal_attention", False) is True:
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        replace(stack, processors, "USP", attend)
        yield
