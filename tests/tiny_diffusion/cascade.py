"""Stable Cascade: {name of the case: (build, keyword arguments of one forward)}, two batch entries."""

from __future__ import annotations

import torch

from .base import Afresh, build, randn

HEADS = 6
TIMES = torch.tensor([0.3, 0.7])


def stage_c(**changes):
    """Two levels of one resolution, with a convolution and a transformer each."""
    return build(
        "comfy.ldm.cascade.stage_c.StageC", c_in=4, c_out=4, c_r=16, c_cond=20, c_hidden=[24, 36],
        nhead=[HEADS, HEADS], blocks=[[1, 2], [2, 1]], c_clip_text=20, c_clip_text_pooled=16, c_clip_img=768,
        c_clip_seq=2, **changes,
    )  # fmt: skip


def stage_b():
    """Four resolutions, the last two of which have transformers; blocks of two levels run twice."""
    module = build(
        "comfy.ldm.cascade.stage_b.StageB", c_in=4, c_out=4, c_r=16, c_cond=20, c_hidden=[8, 12, 24, 24],
        nhead=[-1, -1, HEADS, HEADS], blocks=[[1, 1, 2, 1], [1, 2, 1, 1]], block_repeat=[[1, 1, 1, 1], [2, 2, 1, 1]],
        c_clip=16, c_clip_seq=2, c_effnet=4,
    )  # fmt: skip
    for last in (part for name, part in module.named_modules() if name.endswith("channelwise.4")):
        last.weight.mul_(0.1)  # or the residual blocks say so much that attention says nothing
        last.bias.mul_(0.1)
    return module


def stage_c_inputs(height=7, width=5):
    """A latent, a text and its pooled form, and a picture to be like."""
    text = {"clip_text": randn(2, 7, 20), "clip_text_pooled": randn(2, 1, 16), "clip_img": randn(2, 1, 768)}
    return {"x": randn(2, 4, height, width), "r": TIMES, "sca": torch.zeros(2), "crp": torch.zeros(2)} | text


def stage_b_inputs(height=48, width=20):
    """A latent, stage C's, and a pooled text."""
    given = {"x": randn(2, 4, height, width), "r": TIMES, "sca": torch.zeros(2)}
    return given | {"effnet": randn(2, 4, 5, 3), "clip": randn(2, 1, 16)}


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    channels = (24, 36, None, 36, None, 24)  # of each convolution, the first last
    residuals = [None if c is None else randn(2, c, 7, 5, seed=i) for i, c in enumerate(channels)]
    return {
        "cascade c": (stage_c, stage_c_inputs()),
        "cascade c, ControlNet": (stage_c, stage_c_inputs() | {"control": Afresh(input=residuals)}),
        "cascade b": (stage_b, stage_b_inputs()),
        "cascade b, rows that do not divide": (stage_b, stage_b_inputs(height=80, width=16)),
    }
