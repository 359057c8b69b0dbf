"""Wraps the patches inside a transformer's blocks and attention, so that they see all tokens.

B batch, H heads, L local tokens, N all tokens, D head dim, C channels.

The inputs of a patch in front of self-attention are gathered, and what it returns keeps all tokens: attention then
takes the local queries of it and all keys, however many the patch returns. So reference attention, which adds keys, is
exact, and nothing more is exchanged. Where the patch changes the number of queries, as token merging does, every rank
attends with all of them; a patch after attention must restore the number. The results of other patches are cut to the
local tokens again. While a patch runs, attention that it calls itself is not split, and token counts in its options are
those of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from .patches import OF_UNETS


class AllTokens(Protocol):
    """The interface by which a patch gets all tokens."""

    def is_whole(self) -> bool:
        """Whether the model holds all tokens at this point."""

    def gathered(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The tokens of all ranks along `dim`; `x` itself where it holds all.

        `what` names the message; it is made unique within the forward.
        """

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """The local tokens of a gathered tensor, along `dim`."""

    def whole_of(self, local: Any) -> Any:
        """The full-sequence value that an action of the plan has cut to `local`."""

    def whole_mask(self, mask: Any) -> Any:
        """The mask itself, or where it is None the one for all tokens that the plan has taken from the block."""

    def seeing_all(self, options: dict[str, Any]) -> AbstractContextManager[None]:
        """While active, the options count all tokens, and attention is not split."""

    def attend_to_all(self) -> None:
        """Announces that the next attention call is given all queries, keys and values."""


class InsidePatch:
    """Stands for all patches of one kind: `call(view, patches, arguments)` lets them see all tokens."""

    def __init__(self, call: Callable[..., Any], view: AllTokens, patches: Sequence[Callable[..., Any]]) -> None:
        self._call, self._view, self._patches = call, view, patches

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._view, self._patches, *args, **kwargs)


class NotCalledHere:
    """Stands for patches that only UNets call. Raises Unsupported if a transformer calls them."""

    def __init__(self, kind: str, refuse: Callable[[str], Exception]) -> None:
        self._kind, self._refuse = kind, refuse

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._refuse(f"a patch of the kind {self._kind}")


def _self_attention(
    view: AllTokens, patches: Sequence[Callable[..., Any]], q: Any, k: Tensor | None = None, v: Tensor | None = None,
    pe: Any = None, attn_mask: Any = None, extra_options: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """In front of attention: q, k and v are (B, H, L, D), or (B, L, C) before their projections (Cosmos Predict2)."""
    if isinstance(q, dict):
        return _behind_self_attention(view, patches, q)
    whole, dim = view.is_whole(), 2 if q.ndim == 4 else 1
    given = {name: view.gathered(x, dim, f"patched {name}") for name, x in (("q", q), ("k", k), ("v", v))}
    given |= {"pe": view.whole_of(pe), "attn_mask": view.whole_mask(attn_mask)}
    with view.seeing_all(extra_options):
        given = _in_turn(patches, given, extra_options)
    if not whole:
        view.attend_to_all()
    return given


def _in_turn(
    patches: Sequence[Callable[..., Any]], given: dict[str, Any], options: dict[str, Any] | None
) -> dict[str, Any]:
    """Applies patches of q, k and v one after the other; what a patch does not return stays."""
    for patch in patches:
        q, k, v, *_ = given.values()
        out = patch(q, k, v, pe=given["pe"], attn_mask=given["attn_mask"], extra_options=options)
        given = {name: out.get(name, value) for name, value in given.items()}
    return given


def _behind_self_attention(view: AllTokens, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> Tensor:
    """Wan, after attention: `x` (B, L, C) is its output; q and k are (B, L, H, D)."""
    args = args | {name: view.gathered(args[name], 1, f"patched {name}") for name in ("x", "q", "k")}
    with view.seeing_all(args["transformer_options"]):
        for patch in patches:
            args["x"] = patch(dict(args))
    return view.cut(args["x"], 1)


def _self_attention_output(
    view: AllTokens, patches: Sequence[Callable[..., Any]], out: Tensor, extra_options: dict[str, Any]
) -> Tensor:
    """After attention: `out` is (B, L, C)."""
    out = view.gathered(out, 1, "patched output")
    with view.seeing_all(extra_options):
        for patch in patches:
            out = patch(out, extra_options)
    return view.cut(out, 1)


def _cross_attention(
    view: AllTokens, patches: Sequence[Callable[..., Any]], q: Any, k: Tensor | None = None, v: Tensor | None = None,
    pe: Any = None, attn_mask: Any = None, extra_options: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Cosmos Predict2: q (B, L, C) is of the tokens, k and v of the text. Wan: after cross-attention, `x` (B, L, C)."""
    if isinstance(q, dict):
        return _behind_cross_attention(view, patches, q)
    given = {"q": view.gathered(q, 1, "patched queries"), "k": k, "v": v, "pe": view.whole_of(pe)}
    with view.seeing_all(extra_options):
        given = _in_turn(patches, given | {"attn_mask": attn_mask}, extra_options)
    return given | {"q": view.cut(given["q"], 1), "pe": pe}


def _behind_cross_attention(view: AllTokens, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> Tensor:
    args = args | {"x": view.gathered(args["x"], 1, "patched tokens")}
    with view.seeing_all(args["transformer_options"]):
        for patch in patches:
            args["x"] = patch(dict(args))
    return view.cut(args["x"], 1)


def _feed_forward(view: AllTokens, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> dict[str, Any]:
    """Cosmos Predict2, before the feed-forward: the tokens of `x` lie on a grid (B, T, H, W, C)."""
    args = args | {"x": view.gathered(args["x"], 1, "patched tokens")}
    with view.seeing_all(args["transformer_options"]):
        for patch in patches:
            args = patch(args)
    return args | {"x": view.cut(args["x"], 1)}


_KINDS = {
    "attn1_patch": _self_attention,
    "attn1_output_patch": _self_attention_output,
    "attn2_patch": _cross_attention,
    "mlp_patch": _feed_forward,
}


def with_all_tokens(
    options: Mapping[str, Any], view: AllTokens, refuse: Callable[[str], Exception]
) -> Mapping[str, Any]:
    """The same transformer_options, with the patches inside the blocks wrapped to see all tokens."""
    given = options.get("patches", {})
    patches = {kind: [InsidePatch(call, view, given[kind])] for kind, call in _KINDS.items() if given.get(kind)}
    patches |= {kind: [NotCalledHere(kind, refuse)] for kind in OF_UNETS if given.get(kind)}
    return {**options, "patches": {**given, **patches}} if patches else options
