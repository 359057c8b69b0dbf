"""Attention over a sequence that is split over ranks: Ulysses inside a group, a ring or an all-gather between groups.

Fang, Zhao: USP, a unified sequence parallelism, 2024 (arXiv:2405.07719).
B batch, L tokens of one rank, G tokens of its Ulysses group, N tokens of all, H heads, D head dim, C = heads x dim,
U Ulysses ranks, R ring ranks; part = ring.index * U + ulysses.index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .all_gather import gather_kv
from .axis import Axis
from .errors import Unsupported
from .layout import TokenLayout
from .ring import ring_attention
from .ulysses import check_heads, heads_to_tokens, tokens_to_heads

if TYPE_CHECKING:
    from ..compression.wire import Tag, Wire
    from ..report.ledger import Ledger

_PLAIN_FUNCTIONS = ("attention_basic", "attention_pytorch", "attention_split", "attention_sub_quad")


@dataclass(frozen=True)
class SequenceAttention:
    """ComfyUI's attention over tokens of which every rank holds some. Called like ComfyUI's, on the local tokens.

    With ring_exchange "all_gather" (and with Ulysses alone) the attention function of the user does the arithmetic;
    "ring" needs a log-sum-exp, which ComfyUI's functions do not return, and uses torch's own kernels.
    The tag a wire sees carries the text tokens of the sender's chunk: all segments but the last, which come first.
    """

    ulysses: Axis
    ring: Axis
    ring_exchange: str
    wire: Wire
    ledger: Ledger

    @property
    def part(self) -> int:
        """The own part of the sequence."""
        return self.ring.index * self.ulysses.size + self.ulysses.index

    @property
    def parts(self) -> int:
        """The number of parts of the sequence."""
        return self.ring.size * self.ulysses.size

    def __call__(
        self,
        func: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        *,
        layout: TokenLayout,
        tag: Tag,
        mask: Tensor | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Attention of the local queries to the keys of all ranks.

        Args:
            func: the attention function, called as func(q, k, v, heads, mask=, skip_reshape=, skip_output_reshape=).
            q, k, v: (B, L, C), k and v also (B, L, H, D); with skip_reshape (B, H, L, D). k and v may have fewer heads.
            layout: how the tokens lie; L is layout.chunk(part). tag: names the layer and the batch entries.
            mask: in the order of the unsplit sequence, bool or additive: (N, N), (B, N), (B, N, N), (B, 1|H, N|1, N).
        Returns:
            (B, L, C), or (B, H, L, D) with skip_output_reshape.
        Raises:
            Unsupported: the heads or the mask do not fit.
        """
        ulysses, ring = self.ulysses, self.ring
        if self.parts == 1:
            shapes = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
            return func(q, k, v, heads, mask=mask, **shapes, **kwargs)
        dim = q.shape[-1] if skip_reshape else q.shape[-1] // heads
        q_BLHD, k_BLHD, v_BLHD = (
            x.transpose(1, 2) if skip_reshape else x.reshape(*x.shape[:2], -1, dim) for x in (q, k, v)
        )
        if mask is not None:
            mask = self._gathered_mask(mask, layout, q.shape[0], heads)
        if ulysses.size > 1:
            check_heads(heads, k_BLHD.shape[2], ulysses.size)
            first = ring.index * ulysses.size
            q_BLHD, k_BLHD, v_BLHD = tokens_to_heads((q_BLHD, k_BLHD, v_BLHD), ulysses, layout, first, self.ledger)
        message = {
            "chunks": [layout.chunk(r, group=ulysses.size) for r in range(ring.size)],
            "tags": [self._tag(tag, layout, r) for r in range(ring.size)],
            "wire": self.wire,
            "ledger": self.ledger,
        }
        k_BGC, v_BGC = k_BLHD.flatten(2), v_BLHD.flatten(2)
        if ring.size > 1:
            self._warn_of_function(func)
        if ring.size > 1 and self.ring_exchange == "ring":
            scale = kwargs.get("scale") or dim**-0.5
            q_BHGD = q_BLHD.transpose(1, 2)
            out = ring_attention(q_BHGD, k_BGC, v_BGC, ring, scale=scale, mask=mask, **message).transpose(1, 2)
        else:
            if ring.size > 1:
                k_BGC, v_BGC = gather_kv((k_BGC, v_BGC), ring, **message)
            given = [q_BLHD, k_BGC.unflatten(2, (-1, dim)), v_BGC.unflatten(2, (-1, dim))]
            given = [x.transpose(1, 2) if skip_reshape else x.flatten(2) for x in given]
            shapes = {"skip_reshape": skip_reshape, "skip_output_reshape": False}
            out = func(*given, q_BLHD.shape[2], mask=mask, **shapes, **kwargs).unflatten(2, (q_BLHD.shape[2], -1))
        if ulysses.size > 1:
            out = heads_to_tokens(out, ulysses, layout, ring.index * ulysses.size, self.ledger)
        return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)

    def _tag(self, tag: Tag, layout: TokenLayout, ring_index: int) -> Tag:
        """The tag of the message of a ring rank."""
        return replace(tag, exact_tokens=sum(layout.local(ring_index, group=self.ulysses.size)[:-1]))

    def _gathered_mask(self, mask: Tensor, layout: TokenLayout, batch: int, heads: int) -> Tensor:
        """(B|1, own H|1, own G|1, N): keys in the order of the gathered chunks, own queries and heads."""
        total, group, shape = layout.total, self.ulysses.size, tuple(mask.shape)
        if mask.ndim == 2:
            mask = mask[None, None] if mask.shape[0] == total else mask[:, None, None]
        elif mask.ndim == 3:
            mask = mask[:, None]
        fits = mask.ndim == 4 and all(have in (1, want) for have, want in zip(mask.shape[:3], (batch, heads, total)))
        if not fits or mask.shape[-1] != total:
            raise Unsupported(
                f"The attention mask has shape {shape}, which does not fit a sequence of {total} tokens; "
                "set ulysses_degree and ring_degree to 1 (cfg_degree still works)."
            )
        order = layout.gathered_order(group).to(mask.device)
        if mask.shape[1] > 1:
            mask = mask.tensor_split(group, dim=1)[self.ulysses.index]
        if mask.shape[2] > 1:
            start = sum(layout.chunk(r, group) for r in range(self.ring.index))
            mask = mask.index_select(2, order[start : start + layout.chunk(self.ring.index, group)])
        return mask.index_select(3, order)

    def _warn_of_function(self, func: Callable[..., Tensor]) -> None:
        name = getattr(func, "__name__", "an attention override")
        if self.ring_exchange == "ring" and name not in _PLAIN_FUNCTIONS:
            self.ledger.warn(
                f"ring_exchange ring computes attention with torch's own kernels; {name} does not apply. "
                "ring_exchange all_gather keeps it."
            )
        elif self.ring_exchange == "all_gather" and not hasattr(func, "__name__"):
            self.ledger.warn(
                "A patch of this workflow overrides attention. It is given the queries of one worker and all keys in "
                "the order of the workers; one that goes by their positions gives another picture. ulysses_degree "
                "instead of ring_degree keeps their order."
            )
