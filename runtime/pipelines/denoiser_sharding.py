"""Token sharding of a pipeline's denoiser: a transformer of diffusers whose tokens are split over the ranks.

Its modules call torch's scaled_dot_product_attention, which a stand-in replaces while the denoiser runs. Attention that
takes another way, as with another attention backend of diffusers, is not seen, and so refused.
B batch, H heads, L queries, N keys, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn import functional

from ..sharding.origin import is_class_of
from ..sharding.token_sharding import TokenSharding
from .attention_function import called_like_comfyui


class DenoiserTokens(TokenSharding):
    """See `TokenSharding`. Nothing is put into the arguments of the denoiser."""

    given = ()
    runs_compiled = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._replaced_attention: Callable[..., Tensor] | None = None

    def _attach(self) -> None:
        super()._attach()
        self._handles.append(self.module.register_forward_pre_hook(self._take_attention))
        self._handles.append(self.module.register_forward_hook(self._return_attention, always_call=True))

    def detach(self) -> None:
        """See `TokenSharding.detach`. Returns torch's attention, too, if a forward was interrupted."""
        super().detach()
        self._return_attention()

    def _look(self) -> tuple[str, ...]:
        """See `Hooked._look`. Also finds hooks of diffusers, such as caches, and processors of another package."""
        packages = self.plan.library.packages
        hooked = {path for path, module in self.module.named_modules() if _is_changed(module, packages)}
        return tuple(sorted({*super()._look(), *hooked}))

    def _take_attention(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._return_attention()  # torch runs no hook after KeyboardInterrupt
        self._replaced_attention = functional.scaled_dot_product_attention
        functional.scaled_dot_product_attention = self._scaled_dot_product_attention

    def _return_attention(self, *_: Any) -> None:
        if self._replaced_attention is not None:
            functional.scaled_dot_product_attention = self._replaced_attention
            self._replaced_attention = None

    def _scaled_dot_product_attention(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs in place of torch's function."""
        if not self._splits_attention():
            return self._replaced_attention(*args, **kwargs)
        return self._exchanged(*args, **kwargs)

    def _exchanged(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention over split tokens, with the arguments of torch's function: query (B, H, L, D)."""
        if dropout_p or is_causal:
            raise self.plan.refuse("an attention that is causal or drops keys")
        if attn_mask is not None:
            attn_mask = attn_mask[(None,) * (4 - attn_mask.ndim)]  # as torch broadcasts it
        return self._attend(
            called_like_comfyui(self._replaced_attention),
            q=query,
            k=key,
            v=value,
            heads=query.shape[1],
            mask=attn_mask,
            skip_reshape=True,
            skip_output_reshape=True,
            scale=scale,
        )


def _is_changed(module: nn.Module, packages: tuple[str, ...]) -> bool:
    """Whether something else than the code of its class may run in a module.

    accelerate replaces forward to move weights and inputs between devices, which changes no result.
    """
    compiled = isinstance(module, OptimizedModule) or module._compiled_call_impl is not None
    replaced = "forward" in vars(module) and not hasattr(module, "_hf_hook")
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", None)
    processor = getattr(module, "processor", None)
    foreign = processor is not None and not is_class_of(packages, type(processor))
    return bool(compiled or replaced or hooks or foreign)
