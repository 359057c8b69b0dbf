"""What workflows add to a model: patches between the blocks that look at all tokens, and a ControlNet's outputs."""

from __future__ import annotations

import torch

from .base import randn


def control(channels, tokens=15, double=2, single=2):
    """What a ControlNet adds to the first tokens behind each double and each single block; not behind every one."""
    return {
        "control": {
            "input": [randn(2, tokens, channels, seed=i) for i in range(double - 1)] + [None],
            "output": [None] + [randn(2, tokens, channels, seed=9 + i) for i in range(single - 1)],
        }
    }


def by_position(tokens):
    """Other for every token, and every token takes something of its neighbour."""
    ramp = torch.linspace(0.5, 1.5, tokens.shape[1], device=tokens.device)[None, :, None]
    return tokens * ramp + tokens.roll(1, 1) / 4


def around(args, extra):
    out = extra["original_block"](args | {"img": by_position(args["img"])})
    return out | {"img": by_position(out["img"])}


def skip(args, extra):
    return args


def _behind(args):
    return args | {"img": by_position(args["img"])} | ({"txt": by_position(args["txt"])} if "txt" in args else {})


def replaced(*layers, by=around):
    """transformer_options in which these layers, (kind, index), are replaced."""
    return {"transformer_options": {"patches_replace": {"dit": {layer: by for layer in layers}}}}


def behind(patch=_behind):
    """transformer_options with a patch behind every block."""
    return {"transformer_options": {"patches": {"double_block": [patch]}}}


def surrounded(kind, tokens):
    """A patch that changes every token by its place, in front of the first block and behind it."""

    def changed(x):
        return x * torch.linspace(0.5, 1.5, x.shape[1])[None, :, None] + x.roll(1, 1) / 4

    def patch(args, extra):
        out = extra["original_block"](args | {tokens: changed(args[tokens])})
        return out | {tokens: changed(out[tokens])}

    return {"transformer_options": {"patches_replace": {"dit": {(kind, 0): patch}}}}


def along(x, dim):
    """Other for every token, and every token takes something of its neighbour and of all."""
    ramp = torch.linspace(0.5, 1.5, x.shape[dim], device=x.device)
    ramp = ramp.reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    return x * ramp + x.roll(1, dim) / 4 + x.mean(dim, keepdim=True) / 4
