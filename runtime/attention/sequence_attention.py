"""Sequence-parallel attention: Ulysses inside a group; between groups one of the exchanges/.

Fang, Zhao: USP, a unified sequence parallelism, 2024 (arXiv:2405.07719).
B batch, L tokens of one rank, G tokens of its Ulysses group, N tokens of all, H heads, D head dim, C = heads x dim, U
Ulysses ranks, R ring ranks; the shard index of a rank is ring.index * U + ulysses.index.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..compression.wire import Spec
from .axis import Axis
from .exchanges import BY_NAME, Attention, Exchange
from .layout import TokenLayout
from .messenger import Messenger
from .token_gather import gather_tokens
from .ulysses import HEAD_CHUNK_NBYTES, AllToAll, HeadChunk, check_heads, head_chunk_count, head_chunks
from .unsupported import WAY_OUT, Unsupported

if TYPE_CHECKING:
    from ..compression.wire import Tag, Wire
    from ..report.ledger import Ledger

_PLAIN_FUNCTIONS = (
    "attention_basic",
    "attention_pytorch",
    "attention_split",
    "attention_sub_quad",
    "scaled_dot_product_attention",
)
MOST_HEAD_CHUNKS = 4

T = TypeVar("T")


class _Call(NamedTuple):
    """The arguments that all head chunks of one attention call share."""

    func: Callable[..., Tensor]
    layout: TokenLayout
    mask: Tensor | None
    skip_reshape: bool
    kwargs: dict[str, Any]


class _Route(NamedTuple):
    """The way of one head chunk of a layer to and from the other ranks; the same for all calls of equal shapes."""

    chunk: HeadChunk
    all_to_all: AllToAll
    specs: tuple[Spec, ...]
    """The message with K and V of the Ulysses group, by ring index."""


@dataclass
class SequenceAttention:
    """ComfyUI's attention over tokens that are split over the ranks. Called like ComfyUI's, with the local tokens.

    `ring_exchange` is the name of one of the exchanges/. If that keeps the attention function, and with Ulysses alone,
    the attention function of the workflow does the arithmetic.
    With `overlap` the heads go in chunks, each of at least `head_chunk_nbytes` on the link: while one is computed,
    others travel. The number must be the same on all ranks; it changes no bit of an exact result.
    `way_out` ends the sentence of a refusal.
    The tag that a wire gets holds the number of text tokens in a message: those of all segments but the last, which
    come first. As a context manager, for one job, it leaves nothing under way.
    """

    ulysses: Axis
    ring: Axis
    ring_exchange: str
    wire: Wire
    ledger: Ledger
    overlap: bool = True
    head_chunk_nbytes: int = HEAD_CHUNK_NBYTES
    way_out: str = WAY_OUT
    messenger: Messenger = field(init=False)
    exchange: Exchange = field(init=False)
    _routes: dict[tuple, list[_Route]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.messenger = Messenger(self.wire, self.ledger, self.overlap)
        self.exchange = BY_NAME[self.ring_exchange]()

    def __enter__(self) -> SequenceAttention:
        self.messenger.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.messenger.__exit__(kind, error, trace)

    @property
    def shard_index(self) -> int:
        """Which shard of the sequence this rank holds."""
        return self.ring.index * self.ulysses.size + self.ulysses.index

    @property
    def shards(self) -> int:
        """The number of shards of the sequence."""
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
            func: the attention function, called as func(q, k, v, heads, mask=, skip_reshape=, skip_output_reshape=),
                once per head chunk if it is not an override.
            q, k, v: (B, L, C), k and v also (B, L, H, D); with skip_reshape (B, H, L, D). k and v may have fewer heads.
            layout: which tokens each rank has; L is layout.chunk(shard_index).
            tag: names the layer and the batch entries.
            mask: in the order of the unsplit sequence, bool or additive: (N, N), (B, N), (B, N, N), (B, 1|H, N|1, N).
        Returns:
            (B, L, C), or (B, H, L, D) with skip_output_reshape.
        Raises:
            Unsupported: the heads or the mask do not fit.
        """
        if self.shards == 1:
            shapes = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}
            return func(q, k, v, heads, mask=mask, **shapes, **kwargs)
        qkv_BLHD = [x.transpose(1, 2) if skip_reshape else _by_head(x, q.shape[-1] // heads) for x in (q, k, v)]
        kv_heads, members = qkv_BLHD[1].shape[2], self.ulysses.size
        if mask is not None:
            mask = self._gathered_mask(mask, layout, q.shape[0], heads)
        if members > 1:
            check_heads(heads, kv_heads, members)
        if self.ring.size > 1:
            self._warn_of_function(func)
        call = _Call(func, layout, mask, skip_reshape, kwargs)
        routes = self._routes_of(func, qkv_BLHD, layout, tag)
        if members > 1:
            out_BLHD = qkv_BLHD[0].new_empty(qkv_BLHD[0].shape)
            _in_turns([self._by_heads(call, qkv_BLHD, route, out_BLHD) for route in routes])
        else:
            sliced = [[x[:, :, route.chunk.of(0, x.shape[2])] for x in qkv_BLHD] for route in routes]
            outs = _in_turns([self._attend(call, *each) for each in zip(sliced, routes)])
            out_BLHD = torch.cat(outs, dim=2) if outs[1:] else outs[0]
        return out_BLHD.transpose(1, 2) if skip_output_reshape else out_BLHD.flatten(2)

    def gather_tokens(self, x: Tensor, layout: TokenLayout, dim: int, tag: Tag) -> Tensor:
        """The tokens of all ranks along `dim`, the same bits on every rank; see token_gather.py."""
        axes = {"ulysses": self.ulysses, "ring": self.ring}
        return gather_tokens(x, layout, dim, messenger=self.messenger, tag=tag, **axes)

    def _routes_of(
        self, func: Callable[..., Tensor], qkv_BLHD: Sequence[Tensor], layout: TokenLayout, tag: Tag
    ) -> list[_Route]:
        """The routes of a layer's head chunks, worked out at its first call."""
        _, k_BLHD, v_BLHD = qkv_BLHD
        key = (tag, layout, *[x.shape for x in qkv_BLHD], k_BLHD.dtype, hasattr(func, "__name__"))
        if (routes := self._routes.get(key)) is not None:
            return routes
        members, (batch, _, kv_heads, dim) = self.ulysses.size, k_BLHD.shape
        chunks = head_chunks(members, kv_heads, self._head_chunk_count(func, k_BLHD, layout, tag))
        lengths = [layout.chunk(r, members) for r in range(self.ring.size)]
        text = [layout.text(r, members) for r in range(self.ring.size)]
        first_shard = self.ring.index * members
        routes = self._routes[key] = []
        for chunk in chunks:
            name = f"{tag.name}, heads {chunk.first}-{chunk.last - 1}" if chunks[1:] else tag.name
            tags = [replace(tag, name=name, exact_tokens=tokens) for tokens in text]
            channels = [(chunk.last - chunk.first) * each for each in (dim, v_BLHD.shape[3])]
            shapes = [tuple((batch, length, width) for width in channels) for length in lengths]
            specs = tuple(Spec(*each, k_BLHD.dtype) for each in zip(tags, shapes))
            all_to_all = AllToAll(self.ulysses, layout, first_shard, self.messenger, replace(tag, name=name))
            routes.append(_Route(chunk, all_to_all, specs))
        return routes

    def _head_chunk_count(self, func: Callable[..., Tensor], k_BLHD: Tensor, layout: TokenLayout, tag: Tag) -> int:
        """The number of head chunks; the same on all ranks and at every call.

        It depends on the size of K and V of the largest shard in the first messages to the other ranks: later messages
        may be smaller. One for an override, which may count its calls, and for a ring axis alone whose exchange does
        not overlap heads.
        """
        members, (batch, _, heads, dim) = self.ulysses.size, k_BLHD.shape
        overlaps = self.overlap and (members > 1 or self.exchange.overlaps_heads)
        if not overlaps or not hasattr(func, "__name__"):
            return 1
        shape = (batch, layout.chunk(0), heads * dim // members)
        nbytes = self.wire.first_nbytes(Spec(tag, (shape, shape), k_BLHD.dtype))
        others = (members if members > 1 else self.ring.size) - 1
        return head_chunk_count(others * nbytes, self.head_chunk_nbytes, min(MOST_HEAD_CHUNKS, heads // members))

    def _by_heads(
        self, call: _Call, qkv_BLHD: Sequence[Tensor], route: _Route, out_BLHD: Tensor
    ) -> Generator[None, None, None]:
        """Ulysses attention to a head chunk, each member of the group its own heads, written into `out_BLHD`."""
        qkv_BGhD = yield from route.all_to_all.tokens_to_heads(qkv_BLHD, route.chunk)
        out_BGhD = yield from self._attend(call, qkv_BGhD, route)
        yield from route.all_to_all.heads_to_tokens(out_BGhD, route.chunk, out_BLHD)

    def _attend(self, call: _Call, qkv_BGhD: Sequence[Tensor], route: _Route) -> Generator[None, None, Tensor]:
        """Attention of the given queries to the keys of all ring ranks, (B, G, h, D)."""
        q_BGhD, *kv_BGhD = qkv_BGhD
        heads, dim = q_BGhD.shape[2:]
        mask = call.mask
        if mask is not None and mask.shape[1] > 1:
            mask = mask[:, route.chunk.of(self.ulysses.index, mask.shape[1])]

        def function(k_BNhD: Tensor, v_BNhD: Tensor) -> Tensor:
            if not q_BGhD.shape[1]:
                return q_BGhD.new_empty(*q_BGhD.shape[:3], v_BNhD.shape[3])
            given = [x.transpose(1, 2) if call.skip_reshape else x.flatten(2) for x in (q_BGhD, k_BNhD, v_BNhD)]
            shapes = {"skip_reshape": call.skip_reshape, "skip_output_reshape": False}
            return call.func(*given, heads, mask=mask, **shapes, **call.kwargs).unflatten(2, (heads, -1))

        if self.ring.size == 1:
            return function(*kv_BGhD)
        scale = call.kwargs.get("scale") or dim**-0.5
        attention = Attention(q_BGhD, kv_BGhD, self.ring, route.specs, self.messenger, function, scale, mask)
        return (yield from self.exchange.attend(attention))

    def _gathered_mask(self, mask: Tensor, layout: TokenLayout, batch: int, heads: int) -> Tensor:
        """The mask as (B|1, H|1, own G|1, N): keys in the order of the gathered shards, own queries, all heads."""
        total, group, shape = layout.total, self.ulysses.size, tuple(mask.shape)
        if mask.ndim == 2:
            mask = mask[None, None] if mask.shape[0] == total else mask[:, None, None]
        elif mask.ndim == 3:
            mask = mask[:, None]
        fits = mask.ndim == 4 and all(have in (1, want) for have, want in zip(mask.shape[:3], (batch, heads, total)))
        if not fits or mask.shape[-1] != total:
            raise Unsupported(
                f"The attention mask has shape {shape}, which does not fit a sequence of {total} tokens; "
                f"{self.way_out}"
            )
        if mask.shape[2] > 1:
            mask = layout.split_joint(mask, 2, self.ring.index, group)
        return layout.gathered(mask, 3, group)

    def _warn_of_function(self, func: Callable[..., Tensor]) -> None:
        name, keeps = getattr(func, "__name__", "an attention override"), self.exchange.keeps_function
        if not keeps and name not in _PLAIN_FUNCTIONS:
            self.ledger.warn(
                f"ring_exchange {self.exchange.name} computes attention with torch's own kernels; {name} does not "
                "apply. ring_exchange all_gather keeps it."
            )
        elif keeps and not hasattr(func, "__name__"):
            self.ledger.warn(
                "A patch of this workflow overrides attention. It is given the queries of one worker and all keys in "
                "the order of the workers; one that goes by their positions gives another picture. ulysses_degree "
                "instead of ring_degree keeps their order."
            )


def _by_head(x: Tensor, dim: int) -> Tensor:
    """Makes (B, L, H, D) of (B, L, C), or returns it as it is; L may be 0."""
    return x.reshape(*x.shape[:2], prod(x.shape[2:]) // dim, dim)


def _in_turns(steps: Sequence[Generator[None, None, T]]) -> list[T]:
    """Runs the generators in turns, each to its next yield, until all have returned; gives what they returned."""
    returned: dict[int, T] = {}
    while len(returned) < len(steps):
        for index, step in enumerate(steps):
            if index not in returned:
                try:
                    next(step)
                except StopIteration as end:
                    returned[index] = end.value
    return [returned[index] for index in range(len(steps))]
