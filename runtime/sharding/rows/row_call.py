"""The state of the running call of a UNet whose rows are split, which the handlers of its row plan share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..message_names import MessageNames
from .row_layout import RowLayout

if TYPE_CHECKING:
    from ..hooks import Slots
    from .row_handlers import SelfAttentionHandler


@dataclass
class RowCall:
    """One call of the model. Empty between calls.

    `slots`: (cond, sample) of each batch entry. `options`: the model's transformer_options.
    `unsplit`: nothing is split in this call. `holds_all`: the modules that run are given all rows.
    `levels`: the layout of the rows at each resolution, most rows first; `level`: the current one.
    `width`: the columns of the map in the running transformer, or the last one.
    `whole_skips_from`: from this input block on the skips have all rows of a map of another size.
    `scope`: the handler of the self-attention that is running. `gathered`: the rows have been gathered again.
    `names`: gives messages their names.
    """

    slots: Slots = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    unsplit: bool = False
    holds_all: bool = False
    levels: list[RowLayout] = field(default_factory=list)
    level: int = 0
    width: int = 0
    whole_skips_from: int | None = None
    scope: SelfAttentionHandler | None = None
    gathered: bool = False
    names: MessageNames = field(default_factory=MessageNames)
