"""Decides for a template whether Parallel Model would divide it on two workers, and how, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from compact_parallel.runtime.planner.degrees import auto_degrees

from .conditions import conditions
from .families import family_of, split
from .reading import Template
from .samplings import Prompt, Sampling, samplings

WORLD = 2
DIVIDED = "divided"
ONE_DEVICE = "on one device"
UNKNOWN_FAMILY = "family not known"
UNKNOWN_NODES = "nodes not known"
API = "API nodes, no sampler"
NO_SAMPLER = "no sampler"
NOT_PLACED = "a sampler without Parallel Model"
VERDICTS = (DIVIDED, ONE_DEVICE, UNKNOWN_FAMILY, UNKNOWN_NODES, API, NO_SAMPLER, NOT_PLACED)

_BLOCK_BY_BLOCK = "SamplerARVideo"
"""A sampler whose calls share a KV cache, which the plan of causal Wan refuses to split."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one template (`kind`, one of VERDICTS), its families, and a few words on how or why."""

    name: str
    kind: str
    families: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Share:
    """Whether one sampler is divided, and how or why not; `family` is None if the model's file is not known."""

    family: str | None
    divided: bool
    why: str


def verdict(template: Template, prompt: Prompt, object_info: Mapping[str, Any]) -> Verdict:
    """The verdict on a template by its prompt, in which Parallel Model has been put before the samplers.

    If several samplers differ, one that is divided decides, and `why` describes each.
    """
    found = list(samplings(prompt))
    listed = {family for file in template.models if (family := family_of(file))}
    shares = [share(sampling, listed) for sampling in found]
    families = tuple(_unlike(one.family for one in shares if one.family))
    why = "; ".join(_unlike(f"{one.family or 'unknown'}: {one.why}" for one in shares))
    if unknown := sorted(template.types - object_info.keys()):
        return Verdict(template.name, UNKNOWN_NODES, families, "; ".join(filter(None, (", ".join(unknown), why))))
    if not all(sampling.parallel for sampling in found):
        return Verdict(template.name, NOT_PLACED, families, why)
    if not found:
        api = any(object_info[kind].get("api_node") for kind in template.types)
        return Verdict(template.name, API if api else NO_SAMPLER)
    kind = DIVIDED if any(one.divided for one in shares) else ONE_DEVICE
    if any(one.family is None for one in shares):
        kind = UNKNOWN_FAMILY
    return Verdict(template.name, kind, families, why)


def share(sampling: Sampling, listed: Set[str] = frozenset()) -> Share:
    """The decision of mode "auto" for one sampler on two workers.

    `listed`: the families of the models that the template lists. If the prompt does not give the file (the front end
    puts values of a subgraph with unknown nodes in other fields) and only one family is listed, that family is taken.
    """
    family = family_of(sampling.file or "") or (next(iter(listed)) if len(listed) == 1 else None)
    if family is None:
        return Share(None, False, f"model file {sampling.file}" if sampling.file else "no loader known")
    count = conditions(sampling)
    if count is None:
        return Share(family, False, f"{sampling.guider or 'its guider'}: what it asks for is not known before a run")
    axis = "" if sampling.sampler == _BLOCK_BY_BLOCK else split(family)
    degrees = auto_degrees(WORLD, conditions=count, splits_tokens=bool(axis), heads=None)
    asked = f"{count} condition{'' if count == 1 else 's'} ({_settings(sampling)})"
    if degrees.world == 1:
        reason = f"{_BLOCK_BY_BLOCK} cannot be split" if split(family) else "no plan for the family"
        return Share(family, False, f"{asked}, {reason}")
    ways = {"CFG": degrees.cfg, axis: degrees.sequence}
    return Share(family, True, f"{asked}: " + ", ".join(f"{name} x{size}" for name, size in ways.items() if size > 1))


def _settings(sampling: Sampling) -> str:
    """The settings that decide the number of conditions: the guider or its CFG, and a sampler that always needs all."""
    numbers = [f"{value:g}" for name, value in sampling.inputs.items() if "cfg" in name]
    guider = f"CFG {' and '.join(numbers)}" if numbers else sampling.guider
    return f"{guider}, {sampling.sampler}" if "cfg_pp" in sampling.sampler else guider


def _unlike(several: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(several)]
