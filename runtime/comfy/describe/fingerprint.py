"""The fingerprint of a workflow: hashable keys by which its next run is recognised (see planner/experience.py).

`way_of_asking` is made of what decides the number of conditions per call; `workflow_of` adds the batch size and the
number of steps. Neither contains what changes from run to run, such as the seed, the prompts or a patch's counters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

Named = tuple[str, str]


def named(function: Any) -> Named:
    """The module and qualified name of a function, or of the class of any other callable.

    ComfyUI loads the files of its nodes under their paths, so only the last two parts of a module's name are kept:
    ("comfy_extras.nodes_perpneg", "Guider_PerpNeg.predict_noise").
    """
    while isinstance(function, partial):
        function = function.func
    about = function if hasattr(function, "__qualname__") else type(function)
    parts = re.split(r"[./\\]", str(getattr(about, "__module__", "")))
    return ".".join(parts[-2:]), about.__qualname__


def way_of_asking(guider: Any, sampler: Any) -> Hashable:
    """A key of what decides how many conditions a call has: guider, sampler, and patches and wrappers on the model."""
    function = getattr(sampler, "sampler_function", sampler)
    return (
        type(guider.model_patcher.model.diffusion_model).__qualname__,
        named(type(guider)),
        _plain(vars(guider)),
        tuple((name, len(conds or ())) for name, conds in guider.conds.items()),
        named(function),
        _plain(getattr(sampler, "extra_options", {})),
        tuple(_put_on(guider)),
    )


def workflow_of(guider: Any, arguments: Any) -> Hashable:
    """A key of what decides whether each kind of parallelism has something to do, apart from the settings."""
    return way_of_asking(guider, arguments.sampler), arguments.noise.shape[0], len(arguments.sigmas)


def _plain(values: dict) -> tuple:
    """The entries that are settings: numbers and strings."""
    kept = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
    return tuple(sorted(kept.items()))


def _put_on(guider: Any) -> Iterator[Hashable]:
    """The names of all patches, wrappers and functions that a workflow has put on the model, with their places."""
    options = guider.model_options.get("transformer_options", {})
    yield from guider.model_patcher.object_patches
    yield from guider.model_patcher.injections
    for place in ("patches", "patches_replace", "wrappers"):
        yield from _called(options.get(place, {}), (place,))
    yield from _called(guider.model_patcher.wrappers, ("wrappers",))
    functions = {name: value for name, value in guider.model_options.items() if name.startswith(("sampler_", "model_"))}
    yield from _called(functions, ())


def _called(tree: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Named]]:
    if isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _called(branch, (*place, str(name)))
    elif isinstance(tree, list | tuple):
        for branch in tree:
            yield from _called(branch, place)
    elif isinstance(tree, Callable):
        yield place, named(tree)
