"""What a seam is, and the capabilities that are lost without one."""

from __future__ import annotations

from dataclasses import dataclass

EVERYTHING = "parallel sampling at all"
TOKENS = "sequence parallelism of transformers (ulysses_degree, ring_degree)"
ROWS = "sequence parallelism of UNets (ring_degree)"
CONTROL = "sharing of ControlNets between workers"
CFG = "CFG parallelism (cfg_degree)"
EASYCACHE = "EasyCache with CFG parallelism"
STEP = "Step Reuse (step_degree)"
DATA = "data parallelism (data_degree)"
NODES = "nodes"
EARLY = "refusal of workflows before they run"
PANEL = "panel in the browser"


@dataclass(frozen=True)
class Seam:
    """Names of one module, and what this pack takes for granted about them.

    Args:
        module: where they live.
        names: of functions, classes and values, several with spaces between. "Class.name" is a method, or an attribute
            that a method of the class uses.
        needed_for: the capabilities that are lost without them. Code that is needed for less than EVERYTHING looks
            them up when it runs, so that a worker can start without them.
        behaviour: what they do for this pack, in one sentence.
        takes: what this pack gives to the functions, by their own names: first what it gives by place, behind a "*"
            what it gives by name. None where it does not call them.
        replaced: a function of this pack stands in their place, so that they may take nothing else.
    """

    module: str
    names: str
    needed_for: tuple[str, ...]
    behaviour: str
    takes: str | None = None
    replaced: bool = False
