"""Takes a mask of keys out of a module's arguments and gives attention that of the joint sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..handler import Given
from ..token_call import TakenMask
from .action import Action, ActionOnArgument, handles


@dataclass(frozen=True)
class KeyMask(Action):
    """Before `path` runs, takes a key mask (B, tokens of `segment`), bool or additive, out of its arguments.

    Attention inside gets the mask of the whole joint sequence instead, with the other segments not masked. Without a
    `segment` the mask already is that of the joint sequence, in any shape attention takes.
    """

    arg: str | int
    segment: str | None = None


@handles(KeyMask)
class KeyMaskHandler(ActionOnArgument):
    """Takes the mask for the running call."""

    action: KeyMask

    def change(self, value: Tensor | None, given: Given) -> None:
        """See `ArgumentHandler.change`."""
        if value is not None:
            self.context.call.key_mask = TakenMask(value, self._joint(value))

    def _joint(self, mask: Tensor) -> Tensor:
        segment, joint = self.action.segment, self.context.plan.joint
        if segment is None:
            return mask
        layout, index = self.context.layout(joint), joint.index(segment)
        before, length = sum(layout.lengths[:index]), layout.lengths[index]
        if mask.shape[-1] != length:
            raise self.context.plan.refuse(f"{self.action.arg} for {mask.shape[-1]} of {length} {segment} tokens")
        kept = mask.dtype == torch.bool  # True takes part, or 0 is added
        return nn.functional.pad(mask, (before, layout.total - before - length), value=kept)[:, None]
