"""The capabilities that depend on internals of ComfyUI, and the refusal of degrees whose capability is lost."""

from __future__ import annotations

from collections.abc import Mapping

TOKENS = "sequence parallelism of transformers (ulysses_degree, ring_degree)"
ROWS = "sequence parallelism of UNets (ring_degree)"
CONTROL = "sharing of ControlNets between workers"
CFG = "CFG parallelism (cfg_degree)"
EASYCACHE = "EasyCache with CFG parallelism"
STEP = "Step Reuse (step_degree)"
DATA = "data parallelism (data_degree)"

Lost = Mapping[str, str]
"""{capability: the reason why it is lost, without the way out}; see comfy/fits.py."""

UPDATE = "update ComfyUI-CompactParallel, or use a ComfyUI that its README names."
ONE_DEVICE = 'set on_unsupported of Parallel Model to "run on one device"'

_DEGREES = {"data_degree": DATA, "cfg_degree": CFG, "step_degree": STEP}
_SEQUENCE = ("ulysses_degree", "ring_degree")


def refusal(degrees: Mapping[str, int], lost: Lost, *kinds: str) -> str:
    """Why workers cannot share a model this way; empty where they can.

    Args:
        degrees: {"cfg_degree": 2, ...}, as Parallel Strategy names them; others are not looked at.
        kinds: TOKENS or ROWS, as the model is; both where it is not known yet.
    """
    for name, size in degrees.items():
        if size > 1 and (reason := _against(name, lost, kinds or (TOKENS, ROWS))):
            return f"{name} is {size}, but {reason}; set {name} to 1, update ComfyUI-CompactParallel, or {ONE_DEVICE}."
    return ""


def _against(name: str, lost: Lost, kinds: tuple[str, ...]) -> str:
    if name in _SEQUENCE:
        found = [lost.get(kind, "") for kind in kinds]
        return found[0] if all(found) else ""
    return lost.get(_DEGREES.get(name, ""), "")


def nothing_left(reason: str) -> str:
    """The sentence for a job that had something to share, if only the capability were there."""
    return f"These workers have nothing to share: {reason}; update ComfyUI-CompactParallel, or {ONE_DEVICE}."
