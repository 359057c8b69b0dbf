"""Patches inside the blocks and the attention of a transformer, and how they get to see all tokens.

B batch, H heads, L own tokens, N all tokens, D head dim, C channels.

What a patch in front of self-attention is given is gathered, and what it returns stays whole: attention then takes the
own queries of it and all keys, as many as the patch has made. So reference attention, which adds keys, is exact, and
nothing more is exchanged. What other patches return is cut to the own tokens again. While a patch runs, attention that
it calls itself is not split, and what its options say of token counts is said of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from .patches import OF_UNETS


class View(Protocol):
    """What a patch needs to see all tokens."""

    def is_whole(self) -> bool:
        """Whether the model holds all tokens where it is now."""

    def gathered(self, x: Tensor, dim: int, what: str) -> Tensor:
        """The tokens of all ranks along `dim`; `x` itself where it holds all. `what` names it, once per forward."""

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """The own tokens of what was gathered, along `dim`."""

    def whole_of(self, own: Any) -> Any:
        """The value of which a plan's action made `own` for this rank."""

    def whole_mask(self, mask: Any) -> Any:
        """The mask that the block was given for all tokens."""

    def seeing_all(self, options: dict[str, Any]) -> AbstractContextManager[None]:
        """While active, options speak of all tokens, and attention is not split."""

    def attend_to_all(self) -> None:
        """The next attention is given all queries, keys and values."""


class InsidePatch:
    """The patches of one kind as one: `call(view, patches, arguments)` says how they get to see all tokens."""

    def __init__(self, call: Callable[..., Any], view: View, patches: Sequence[Callable[..., Any]]) -> None:
        self._call, self._view, self._patches = call, view, patches

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._view, self._patches, *args, **kwargs)


class NotCalledHere:
    """Stands for patches that only UNets call. Raises Unsupported should a transformer do so."""

    def __init__(self, kind: str, refuse: Callable[[str], Exception]) -> None:
        self._kind, self._refuse = kind, refuse

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._refuse(f"a patch of the kind {self._kind}")


def _self_attention(
    view: View, patches: Sequence[Callable[..., Any]], q: Any, k: Tensor | None = None, v: Tensor | None = None,
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
    """What patches of q, k, v make of each other's results; what one does not return stays."""
    for patch in patches:
        q, k, v, *_ = given.values()
        out = patch(q, k, v, pe=given["pe"], attn_mask=given["attn_mask"], extra_options=options)
        given = {name: out.get(name, value) for name, value in given.items()}
    return given


def _behind_self_attention(view: View, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> Tensor:
    """Wan: behind attention, `x` (B, L, C) is what it gave; q and k are (B, L, H, D)."""
    args = args | {name: view.gathered(args[name], 1, f"patched {name}") for name in ("x", "q", "k")}
    with view.seeing_all(args["transformer_options"]):
        for patch in patches:
            args["x"] = patch(dict(args))
    return view.cut(args["x"], 1)


def _self_attention_output(
    view: View, patches: Sequence[Callable[..., Any]], out: Tensor, extra_options: dict[str, Any]
) -> Tensor:
    """Behind attention: `out` is (B, L, C)."""
    out = view.gathered(out, 1, "patched output")
    with view.seeing_all(extra_options):
        for patch in patches:
            out = patch(out, extra_options)
    return view.cut(out, 1)


def _cross_attention(
    view: View, patches: Sequence[Callable[..., Any]], q: Any, k: Tensor | None = None, v: Tensor | None = None,
    pe: Any = None, attn_mask: Any = None, extra_options: dict[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Cosmos Predict2: q (B, L, C) is of tokens, k and v of the text. Wan: behind cross-attention, `x` (B, L, C)."""
    if isinstance(q, dict):
        return _behind_cross_attention(view, patches, q)
    given = {"q": view.gathered(q, 1, "patched queries"), "k": k, "v": v, "pe": view.whole_of(pe)}
    with view.seeing_all(extra_options):
        given = _in_turn(patches, given | {"attn_mask": attn_mask}, extra_options)
    return given | {"q": view.cut(given["q"], 1), "pe": pe}


def _behind_cross_attention(view: View, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> Tensor:
    args = args | {"x": view.gathered(args["x"], 1, "patched tokens")}
    with view.seeing_all(args["transformer_options"]):
        for patch in patches:
            args["x"] = patch(dict(args))
    return view.cut(args["x"], 1)


def _feed_forward(view: View, patches: Sequence[Callable[..., Any]], args: dict[str, Any]) -> dict[str, Any]:
    """Cosmos Predict2: in front of the feed-forward, `x` is tokens on a grid (B, T, H, W, C)."""
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


def with_all_tokens(options: Mapping[str, Any], view: View, refuse: Callable[[str], Exception]) -> Mapping[str, Any]:
    """The same transformer_options, whose patches inside the blocks are given all tokens."""
    given = options.get("patches", {})
    patches = {kind: [InsidePatch(call, view, given[kind])] for kind, call in _KINDS.items() if given.get(kind)}
    patches |= {kind: [NotCalledHere(kind, refuse)] for kind in OF_UNETS if given.get(kind)}
    return {**options, "patches": {**given, **patches}} if patches else options
