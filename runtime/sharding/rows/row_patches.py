"""Wraps a workflow's patches on a UNet, so that they see all rows of its feature maps.

Patches between the blocks are given all rows, the same on every rank, and what they return is cut to the local rows.
Where they return a map of another size, as Deep Shrink does, the model holds all rows of that map on every rank, until
a patch has restored the size. Patches that are given a transformer's tokens and return as many also see all tokens, and
their result is cut. Patches that are given keys of self-attention, or may change the number of tokens, make that
transformer run on all rows on every rank. `emb_patch` sees no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

OF_SELF_ATTENTION = frozenset({"attn1_patch", "attn1_output_patch"})
REPLACES = ("attn1", "attn2")


class AllRows(Protocol):
    """The interface by which a patch gets all rows."""

    def gathered(self, x_BCRW: Tensor, what: str) -> Tensor:
        """All rows of a map at the current resolution. `what` names the message, made unique in the forward."""

    def all_rows(self, x_BCRW: Tensor, what: str) -> Tensor:
        """`gathered`, or the map itself where the model holds all rows."""

    def all_rows_of_skip(self, x_BCRW: Tensor) -> Tensor:
        """All rows of the skip that the running output block gets."""

    def put(self, x_BCHW: Tensor, first_skip: int | None = None) -> Tensor:
        """The map that the model goes on with: the local rows, or all rows of a map of another size.

        The skips from `first_skip` on are then of that map, too.
        """

    def put_with_skip(self, x_BCHW: Tensor, skip_BCHW: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """`put` for an output block, with its skip."""

    def cut(self, x_BCHW: Tensor) -> Tensor:
        """The local rows of a map at the current resolution."""

    def whole(self) -> AbstractContextManager[None]:
        """While active, modules are given all rows."""

    def gathered_tokens(self, x_BLC: Tensor, what: str) -> Tensor:
        """The tokens of all rows of the current map."""

    def cut_tokens(self, x_BNC: Tensor) -> Tensor:
        """The tokens of the local rows of the current map."""

    def is_whole(self) -> bool:
        """Whether the running module is given all rows already."""

    def whole_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options for a patch, with the shape of the current map as it is with all rows."""

    def whole_shape(self, shape: Sequence[int], layer: Any) -> list[int]:
        """The shape, with all rows, of a map that `layer`, or what follows it, is to make; `shape` has local rows."""


class WholePatch:
    """Stands for a patch, or several in turn: `call(view, patch, arguments)` lets them see all rows."""

    def __init__(self, call: Callable[..., Any], view: AllRows, patch: Any) -> None:
        self._call, self._view, self._patch = call, view, patch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._view, self._patch, *args, **kwargs)


def _map(view: AllRows, patches: Sequence[Callable[..., Any]], h: Tensor, options: dict[str, Any]) -> Tensor:
    return view.put(_in_turn(view, patches, h, options), first_skip=options["block"][1])


def _map_behind_skip(
    view: AllRows, patches: Sequence[Callable[..., Any]], h: Tensor, options: dict[str, Any]
) -> Tensor:
    return view.put(_in_turn(view, patches, h, options), first_skip=options["block"][1] + 1)


def _in_turn(view: AllRows, patches: Sequence[Callable[..., Any]], h: Tensor, options: dict[str, Any]) -> Tensor:
    h = view.all_rows(h, "input block")
    for patch in patches:
        h = patch(h, options)
    return h


def _map_and_skip(
    view: AllRows, patches: Sequence[Callable[..., Any]], h: Tensor, skip: Tensor | None, options: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    h, skip = view.all_rows(h, "output block"), None if skip is None else view.all_rows_of_skip(skip)
    for patch in patches:
        h, skip = patch(h, skip, options)
    return view.put_with_skip(h, skip)


def _after_middle(view: AllRows, patches: Sequence[Callable[..., Any]], given: dict[str, Any]) -> dict[str, Any]:
    result = {"h": view.all_rows(given["h"], "middle block")}
    for patch in patches:
        result = patch({**given, "h": result["h"]})
    return {**result, "h": view.put(result["h"])}


def _layer(
    view: AllRows, patch: Callable[..., Any], layer: Any, x: Tensor, emb: Tensor, context: Any, options: dict[str, Any],
    output_shape: Any = None, *more: Any,
) -> Tensor:  # fmt: skip
    if output_shape is not None:
        output_shape = view.whole_shape(output_shape, layer)
    if view.is_whole():
        return patch(layer, x, emb, context, options, output_shape, *more)
    x = view.gathered(x, "layer")
    with view.whole():
        x = patch(layer, x, emb, context, options, output_shape, *more)
    return view.cut(x)


def _tokens(view: AllRows, patch: Callable[..., Any], x: Tensor, options: dict[str, Any]) -> Tensor:
    if view.is_whole():
        return patch(x, options)
    return view.cut_tokens(patch(view.gathered_tokens(x, "tokens"), view.whole_options(options)))


def _query_and_text(
    view: AllRows, patch: Callable[..., Any], x: Tensor, context: Any, value: Any, options: dict[str, Any]
) -> tuple[Tensor, Any, Any]:
    if view.is_whole():
        return patch(x, context, value, options)
    x, *text = patch(view.gathered_tokens(x, "tokens"), context, value, view.whole_options(options))
    return view.cut_tokens(x), *text


def _cross_attention(
    view: AllRows, patch: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], **more: Any
) -> Tensor:
    if view.is_whole():
        return patch(q, k, v, options, **more)
    out = patch(view.gathered_tokens(q, "queries"), k, v, view.whole_options(options), **more)
    return view.cut_tokens(out)


_TOKENS = {"attn2_patch": _query_and_text, "attn2_output_patch": _tokens, "middle_patch": _tokens}
_BETWEEN = {
    "input_block_patch": _map,
    "input_block_patch_after_skip": _map_behind_skip,
    "middle_block_after_patch": _after_middle,
    "output_block_patch": _map_and_skip,
}
_LAYERS = "forward_timestep_embed_patch"
KNOWN = OF_SELF_ATTENTION | {*_TOKENS, *_BETWEEN, _LAYERS, "emb_patch"}


def unknown(options: Mapping[str, Any]) -> Iterator[str]:
    """The kinds of patches that no part of ComfyUI's UNet calls."""
    given = {**options.get("patches", {}), **options.get("patches_replace", {})}
    return (kind for kind, patches in given.items() if patches and kind not in KNOWN and kind not in REPLACES)


def with_all_rows(options: Mapping[str, Any], view: AllRows) -> dict[str, Any]:
    """The same transformer_options, with the patches wrapped to see all rows, except those left to `inside`."""
    patches, replaced = dict(options.get("patches", {})), dict(options.get("patches_replace", {}))
    between = any(patches.get(kind) for kind in _BETWEEN)
    for kind, call in _BETWEEN.items():
        if patches.get(kind) or (between and kind == "output_block_patch"):  # it may get maps of another size
            patches[kind] = [WholePatch(call, view, patches.get(kind, []))]
    for kind, call in _TOKENS.items():
        if patches.get(kind):
            patches[kind] = [WholePatch(call, view, patch) for patch in patches[kind]]
    if patches.get(_LAYERS):
        patches[_LAYERS] = [(kind, WholePatch(_layer, view, patch)) for kind, patch in patches[_LAYERS]]
    if replaced.get("attn2"):
        replaced["attn2"] = {
            layer: WholePatch(_cross_attention, view, patch) for layer, patch in replaced["attn2"].items()
        }
    return {**options, "patches": patches, "patches_replace": replaced}


def inside(options: Mapping[str, Any], over_frames: bool) -> bool:
    """Whether the transformer that is about to run must run on all rows because of its patches.

    `over_frames`: its patches also get tokens over frames, which no wrapper above can gather.
    """
    kinds = OF_SELF_ATTENTION.union(_TOKENS) if over_frames else OF_SELF_ATTENTION
    if any(options.get("patches", {}).get(kind) for kind in kinds):
        return True
    block = tuple(options.get("block", ()))[:2]
    replaced = options.get("patches_replace", {})
    names = REPLACES if over_frames else REPLACES[:1]
    return any(tuple(layer)[:2] == block for kind in names for layer in replaced.get(kind, {}))


def added_later(options: Mapping[str, Any]) -> str | None:
    """A kind of patch that was added while the model ran, so that it is not wrapped; None if there is none."""
    patches = {**options.get("patches", {}), "attn2": options.get("patches_replace", {}).get("attn2", {}).values()}
    for kind in (*_BETWEEN, *_TOKENS, _LAYERS, "attn2"):
        for patch in patches.get(kind, ()):
            if not isinstance(patch[1] if kind == _LAYERS else patch, WholePatch):
                return kind
    return None
