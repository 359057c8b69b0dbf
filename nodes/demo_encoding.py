"""The vocabulary of the tiny demo model and its one-hot encoding. Needs only torch, so that training can import it."""

import torch

ANY = "any"

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "ring", "cross"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple"),
    "background": ("white", "grey", "sand", "mint", "rose", "navy"),
    "texture": ("plain", "stripes", "dots"),
    "position": (
        "top left", "top", "top right",
        "left", "centre", "right",
        "bottom left", "bottom", "bottom right",
    ),
}  # fmt: skip

REGISTERS = 3
"""Blank tokens after the attributes; they give the text stream some room and make its length 8 tokens."""

TOKENS = len(ATTRIBUTES) + REGISTERS
_SIZES = [1 + len(values) for values in ATTRIBUTES.values()]
_STARTS = torch.tensor([sum(_SIZES[:i]) for i in range(len(_SIZES))])
POOLED_DIM = sum(_SIZES)
CONTEXT_DIM = POOLED_DIM + REGISTERS


def choices_to_indices(**choices: str) -> torch.Tensor:
    """Turns attribute names into indices [1, 5]: 0 is "any", k is the k-th value.

    Args:
        **choices: one value per attribute; a missing attribute is "any".
    Raises:
        ValueError: an unknown attribute or value.
    """
    unknown = choices.keys() - ATTRIBUTES.keys()
    if unknown:
        raise ValueError(f"unknown attributes {sorted(unknown)}, expected some of {list(ATTRIBUTES)}")
    return torch.tensor([[(ANY, *values).index(choices.get(name, ANY)) for name, values in ATTRIBUTES.items()]])


def encode(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes attribute indices [B, 5] (0 = "any") as the conditioning that the tiny model was trained on.

    Returns:
        tokens [B, TOKENS, CONTEXT_DIM]: one one-hot token per attribute, then the registers.
        pooled [B, POOLED_DIM]: the five one-hot vectors side by side.
    """
    slots = indices + _STARTS.to(indices.device)
    registers = torch.arange(POOLED_DIM, CONTEXT_DIM, device=indices.device).expand(len(indices), REGISTERS)
    tokens = torch.nn.functional.one_hot(torch.cat((slots, registers), dim=1), CONTEXT_DIM).float()
    return tokens, tokens[:, : len(ATTRIBUTES), :POOLED_DIM].sum(dim=1)
