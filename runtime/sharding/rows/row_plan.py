"""The plan of a UNet that is split by rows: what each kind of its modules does with the rows of a feature map.

A plan is data, a short table per model family, which `row_sharding.py` applies. Paths are as in `..plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..family import Family


@dataclass(frozen=True)
class RowPlan(Family):
    """How one family of UNets is split. Classes are named "module.Class".

    Convolutions and group norms are recognised by their type. A convolution of stride 2 makes maps of half the rows,
    and `upsamples` make as many of them as there were before. The job is refused if a module has a type that is not
    named here and that is not known, from torch or from ComfyUI's weight casting, to work on each pixel alone.
    """

    first: str
    """The path of the first layer given the picture: it and all layers after it get local rows."""
    last: str
    """The path of the layer whose output is gathered."""
    upsamples: tuple[str, ...]
    transformers: tuple[str, ...]
    """Classes that treat a map (B, C, R, W) as tokens."""
    over_frames: tuple[str, ...]
    """Those of them whose tokens also attend to the same pixel of other frames. Patches in them get all rows."""
    self_attention: tuple[str, ...]
    """Paths, inside a transformer, of modules that attend to their own tokens when given no argument "context"."""
    local: tuple[str, ...]
    """Classes that mix rows only through the modules inside them, or that run where all rows are."""
    skips: str = ""
    """The path of the blocks that each make a skip; the skip of the last one is used first."""
    layers: tuple[str, ...] = ()
    """Paths of layers that take a map and return one: where a workflow has changed one, it runs on all rows."""
    without_rows: tuple[str, ...] = ()
    """Paths of modules that see no map."""
    norms: tuple[str, ...] = ()
    """Classes that take torch.norm over the pixels (B, R, W, C) of a map."""
    text_in_attention: bool = False
    """Whether the keys of self-attention are followed by those of a text."""
    resizes_control: bool = False
    """Whether control is resized to the map, by bilinear interpolation; else what does not fit is not added."""
