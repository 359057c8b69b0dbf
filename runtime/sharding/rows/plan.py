"""The plan of a model whose rows are split: which of its modules do what with the rows of a feature map.

A plan is data, a short table per model family; `shard.py` beside it is its only reader. Paths are as in `..plan`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..family import Family


@dataclass(frozen=True)
class RowPlan(Family):
    """How one family of UNets is split. Classes are named "module.Class".

    Convolutions and group norms are found by their kind. A convolution of stride 2 makes maps of half the rows, and
    `upsamples` of those make as many as there were before. A module of a kind that is not named here, and that torch or
    ComfyUI's weight casting does not know as one that works on each pixel alone, refuses the job.
    """

    first: str
    """The layer that is given the picture: it and all others get own rows."""
    last: str
    """The layer whose output is gathered."""
    upsamples: tuple[str, ...]
    transformers: tuple[str, ...]
    """Classes that see a map (B, C, R, W) as tokens."""
    over_frames: tuple[str, ...]
    """Those of them in which tokens attend to the same pixel of other frames, too. Patches in them get all rows."""
    self_attention: tuple[str, ...]
    """Paths inside a transformer of what attends to its own tokens, where it is given no argument "context"."""
    local: tuple[str, ...]
    """Classes that do nothing across the rows but by the modules in them, or that stand where all rows are."""
    skips: str = ""
    """Of what each makes a skip; the last one's is taken first."""
    layers: tuple[str, ...] = ()
    """Each is called with a map and gives one: where a workflow has changed one, it runs on all rows."""
    without_rows: tuple[str, ...] = ()
    """What sees no map."""
    norms: tuple[str, ...] = ()
    """Classes that take torch.norm over the pixels (B, R, W, C) of a map."""
    text_in_attention: bool = False
    """Whether keys of self-attention are followed by those of a text."""
    resizes_residuals: bool = False
    """Whether what a ControlNet adds is resized to the map, as bilinear interpolation does; else what does not fit is
    not added."""
