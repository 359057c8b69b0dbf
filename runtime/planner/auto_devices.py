"""Chooses the workers of devices "auto" from plain facts of the machine, and says what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_MEMORY = 0.5
"""The part of the largest card's memory that a card must have: every worker holds the whole model."""
NAME_THEM = "name devices in Parallel Worker Pool to use them all the same."


@dataclass(frozen=True)
class Card:
    """A CUDA device, or an AMD card by ROCm.

    `generation`: the first number of its compute capability. Cards of different generations support different dtypes,
    by which ComfyUI would choose differently on each worker.
    """

    index: int
    name: str
    memory: int
    generation: int
    integrated: bool = False

    @property
    def device(self) -> str:
        """Its name in a list of devices."""
        return f"cuda:{self.index}"


@dataclass(frozen=True)
class Machine:
    """The devices that ComfyUI may use.

    `other`: the kind of device that ComfyUI computes on, if workers cannot use that kind; else empty. `talks`: PyTorch
    was built with its distributed package. `rocm`: the cards are AMD's.
    """

    cards: tuple[Card, ...] = ()
    other: str = ""
    talks: bool = True
    rocm: bool = False

    @property
    def has_workers(self) -> bool:
        """Whether even one worker can run here."""
        return self.talks and not self.other


def auto_devices(machine: Machine) -> tuple[tuple[str, ...], str]:
    """One device per worker, and a sentence about what was left out; empty if nothing was.

    Every card that is about equal to the largest one, else two CPU workers; one device where workers cannot run.
    """
    if machine.other:
        return (machine.other,), (
            f"ComfyUI computes on {machine.other} here, which workers cannot use: they need CUDA devices (or AMD cards "
            "with ROCm) or the CPU."
        )
    devices, left_out = _of_cards(machine.cards)
    devices = devices or ("cpu", "cpu")
    if not machine.talks:
        return devices[:1], "Workers cannot talk here: this PyTorch was built without its distributed package."
    return devices, left_out


def _of_cards(cards: tuple[Card, ...]) -> tuple[tuple[str, ...], str]:
    own = [card for card in cards if not card.integrated] or cards
    if not own:
        return (), ""
    largest = max(own, key=lambda card: card.memory)
    against = {card: _against(card, largest) for card in cards}
    taken = tuple(card.device for card, reason in against.items() if not reason)
    left_out = [f"{card.device} ({card.name}, {reason})" for card, reason in against.items() if reason]
    return taken, f"auto left out {' and '.join(left_out)}; {NAME_THEM}" if left_out else ""


def _against(card: Card, largest: Card) -> str:
    if card.integrated and not largest.integrated:
        return "which is part of the processor"
    if card.memory < LEAST_MEMORY * largest.memory:
        return f"which has less than half of the memory of {largest.device}"
    if card.generation != largest.generation:
        return f"which is of another generation than {largest.device}"
    return ""
