"""The `Seam`: an internal of ComfyUI that this pack relies on, with the capabilities that are lost without it."""

from __future__ import annotations

from dataclasses import dataclass

EVERYTHING = "parallel sampling at all"
NODES = "nodes"
EARLY = "refusal of workflows before they run"
PANEL = "panel in the browser"


@dataclass(frozen=True)
class Seam:
    """Names in one module of ComfyUI, and what this pack assumes about them.

    Args:
        module: where they live.
        names: of functions, classes and values, several with spaces between. "Class.name" is a method, or an attribute
            that a method of the class uses.
        needed_for: the capabilities that are lost without them. Code that is needed for less than EVERYTHING looks
            them up when it runs, so that a worker can start without them.
        behaviour: what they do for this pack, in one sentence.
        takes: the parameters that this pack passes to the functions: first those by position, after a "*" those by
            keyword. None where it does not call them.
        replaced: this pack puts a function of its own in their place, so they may have no other parameters.
    """

    module: str
    names: str
    needed_for: tuple[str, ...]
    behaviour: str
    takes: str | None = None
    replaced: bool = False
