"""Our exchanges inside xfuser's sequence parallelism: its messages go through a wire, which may compress them.

xfuser's USP makes an all-to-all, a ring and an all-to-all back of four functions, which are replaced here. What it does
between them stays: the key and value cache of PipeFusion, the choice of the attention kernel, the order of tokens.

Legend: B batch, H heads, L tokens of one rank, G tokens of a Ulysses group, N tokens of all, h heads of one rank, T
joint (text) tokens, which every rank has, D head dim, C = heads x D.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.axis import Axis
from ...attention.layout import TokenLayout
from ...attention.sequence_attention import SequenceAttention
from ...attention.ulysses import AllToAll, HeadChunk
from ...attention.unsupported import Unsupported
from ...compression.wire import Tag, Wire
from ...config import CompressionConfig, ConfigError
from ...parallel.mesh import Degrees
from ...report.ledger import Ledger
from .groups import axes
from .loading import load, part, replace


def require_supported(compression: CompressionConfig) -> None:
    """Raises ConfigError for a setting of Residual Compression that has no meaning inside xDiT."""
    if compression.keep_text_exact:
        raise ConfigError(
            "keep_text_exact is on, but xDiT sends text and picture in one tensor and does not tell which is which; "
            "switch it off."
        )


@contextmanager
def own_exchange(transformer: nn.Module, degrees: Degrees, wire: Wire, ledger: Ledger) -> Iterator[None]:
    """Replaces the exchanges of `transformer`, which xfuser has wrapped, for the block's duration.

    `degrees` says which exchange the ring axis uses, and whether it overlaps with the computation.
    """
    usp = load("xfuser.model_executor.layers.usp")
    wrapper = part(load("xfuser.model_executor.layers.attention_processor"), "xFuserAttentionBaseWrapper")
    ranks = axes()
    alone = Axis("ulysses", (ranks["ring"].ranks[ranks["ring"].index],), 0)
    attention = SequenceAttention(
        ulysses=alone,
        ring=ranks["ring"],
        ring_exchange=degrees.ring_exchange,
        wire=wire,
        ledger=ledger,
        overlap=degrees.overlap,
        head_chunk_nbytes=degrees.head_chunk_nbytes,
    )
    exchange = XditExchange(ranks["ulysses"], attention)
    with ExitStack() as stack:
        stack.enter_context(attention)
        for name, module in transformer.named_modules():
            if isinstance(module, wrapper):
                stack.callback(module.register_forward_pre_hook(exchange.entering(name)).remove)
        replace(stack, usp, "ring_attn", exchange.ring)
        replace(stack, usp, "_ft_c_input_all_to_all", exchange.to_heads)
        replace(stack, usp, "_combined_qkv_all_to_all", exchange.all_to_heads)
        replace(stack, usp, "_combined_gqa_qkv_all_to_all", exchange.all_to_heads)
        replace(stack, usp, "_ft_c_output_all_to_all", exchange.to_tokens)
        yield


@dataclass
class XditExchange:
    """The exchanges of one rank in one run. They are told by hooks which layer they are in.

    Residual state is kept per layer, kind of tensor and, where a message is about a patch of the picture alone, patch.
    """

    ulysses: Axis
    attention: SequenceAttention
    _layer: str = ""
    _inputs: int = 0
    """The number of tensors that this layer has turned into heads by themselves."""
    _all_to_alls: dict[tuple, AllToAll] = field(default_factory=dict)

    def entering(self, layer: str) -> Callable[..., None]:
        """A forward pre-hook for the attention module `layer`."""

        def hook(*_: Any) -> None:
            self._layer, self._inputs = layer, 0

        return hook

    def to_heads(self, x_BHLD: Tensor) -> Tensor:
        """Stands for xfuser's all-to-all of one tensor: (B, h, G, D)."""
        self._inputs += 1
        return self._to_heads([x_BHLD], f"input {self._inputs}")[0]

    def all_to_heads(self, *tensors_BHLD: Tensor) -> tuple[Tensor, ...]:
        """Stands for xfuser's all-to-all of queries, keys and values, which may differ in H: (B, h, G, D) each."""
        return tuple(self._to_heads(tensors_BHLD, "qkv"))

    def to_tokens(self, x_BhGD: Tensor) -> Tensor:
        """Stands for xfuser's all-to-all back: (B, H, L, D)."""
        members = self.ulysses.size
        if members == 1:
            return x_BhGD
        batch, heads, tokens, dim = x_BhGD.shape
        out_BLHD = x_BhGD.new_empty(batch, tokens // members, heads * members, dim)
        all_to_all = self._all_to_all("out", x_BhGD.shape, tokens // members)
        _run(all_to_all.heads_to_tokens(x_BhGD.transpose(1, 2), _all_heads(members, heads * members), out_BLHD))
        return out_BLHD.transpose(1, 2)

    def ring(
        self,
        attention_function: Callable[..., tuple[Tensor, Tensor | None]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        joint_attn_kwargs: dict[str, Any] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Stands for xfuser's ring: attention of this rank's queries (B, h, L, D) to the keys of all ranks.

        The joint keys (B, h, T, D) are on every rank; each sends its share of them in front of its own.
        """
        if dropout_p or is_causal:
            raise Unsupported("xDiT asks for attention with dropout or a causal mask, which this exchange has not.")

        def function(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
            out, _ = attention_function(q, k, v, dropout_p=0.0, is_causal=False, attention_kwargs=attention_kwargs)
            return out.transpose(1, 2).flatten(2)

        function.__name__ = _kernel_name()
        ring, lengths = self.attention.ring, [key.shape[2] * self.attention.ring.size]
        if joint_attn_kwargs is not None:
            joint = [joint_attn_kwargs[name] for name in ("joint_key", "joint_value")]
            lengths.insert(0, joint[0].shape[2])
        layout = TokenLayout(tuple(lengths), ring.size)
        if joint_attn_kwargs is not None:
            shares = [layout.split(x, 0, 2, ring.index) for x in joint]
            key, value = (torch.cat(pair, dim=2) for pair in zip(shares, (key, value)))
        return self.attention(
            function,
            query,
            key,
            value,
            query.shape[1],
            layout=layout,
            tag=self._tag("kv", len(query)),
            skip_reshape=True,
            skip_output_reshape=True,
        )

    def _to_heads(self, tensors_BHLD: Sequence[Tensor], name: str) -> list[Tensor]:
        if self.ulysses.size == 1:
            return list(tensors_BHLD)
        first = tensors_BHLD[0]
        all_to_all = self._all_to_all(name, first.shape, first.shape[2])
        heads = min(x.shape[1] for x in tensors_BHLD)
        chunk = _all_heads(self.ulysses.size, heads)
        arrived = _run(all_to_all.tokens_to_heads([x.transpose(1, 2) for x in tensors_BHLD], chunk))
        return [x.transpose(1, 2).contiguous() for x in arrived]

    def _all_to_all(self, name: str, shape: Sequence[int], tokens: int) -> AllToAll:
        """The all-to-all of this layer for tensors of one shape, each rank with `tokens` tokens."""
        tag = self._tag(name + _patch(), shape[0])
        key = (tag, tuple(shape))
        if key not in self._all_to_alls:
            members = self.ulysses.size
            layout = TokenLayout((tokens * members,), members)
            self._all_to_alls[key] = AllToAll(self.ulysses, layout, 0, self.attention.messenger, tag)
        return self._all_to_alls[key]

    def _tag(self, name: str, batch: int) -> Tag:
        return Tag(self._layer, name, tuple(("", sample) for sample in range(batch)))


def _all_heads(members: int, heads: int) -> HeadChunk:
    return HeadChunk(members, heads, 0, heads // members)


def _patch() -> str:
    """Which patch of the picture this call of the model is about, for a message's name; "" if the whole picture."""
    state = load("xfuser.core.distributed.runtime_state").get_runtime_state()
    return f", patch {state.pipeline_patch_idx}" if state.patch_mode else ""


def _kernel_name() -> str:
    """The name under which warnings speak of xfuser's attention kernel."""
    name = load("xfuser.core.distributed.runtime_state").get_runtime_state().attention_backend.name
    return "attention_pytorch" if name.startswith("SDPA") else name.lower()


def _run(steps: Generator[None, None, Any]) -> Any:
    """What a generator returns, without anything else in between its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
