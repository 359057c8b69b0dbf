"""Noise schedules that rise again: which of their calls Step Reuse may look ahead at, and how close guesses must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

HARMLESS = 1.05
"""Rises by which an error grows by no more than this factor, such as rounding in a schedule, are ignored."""

LEAST_LEVEL = 1e-6
"""A rise from a noise level below this counts as one from this level, so that the growth stays finite."""


@dataclass(frozen=True)
class Rises:
    """The effect of a schedule's rises on a sampler.

    `calls`: the number of its model calls before the last rise; `growth`: the factor by which an error may have grown.
    """

    calls: int = 0
    growth: float = 1.0


def rises_of(sigmas: Sequence[float], levels: Sequence[float]) -> Rises:
    """The Rises of the schedule `sigmas`, for a sampler that makes calls at the noise levels `levels`.

    A guess is judged by what its error will be at the end of the run, which is known if noise levels only fall. A step
    from level s to t takes a latent x to (t/s) x + (1 - t/s) D(x), and so an error e of x to (t/s) e + (1 - t/s) J e,
    where J = dD/dx is between 0, where the picture is decided, and 1, where it is not. With t < s this shrinks or keeps
    e. On a rise it is up to t/s times e (J = 0), and a later fall need not undo that, because J differs between levels.
    So

        growth = the product of t / s over all rises.

    Before the last rise no guess is good enough: if the path goes back and forth, guesses are made across a turn, and
    their errors may double each time. After it, `growth` is how much the sampler's own errors have grown: they have led
    it off the paths that the model was trained for, where everything is that much more sensitive.

    A schedule that only falls has no rises. One that only rises (unsampling) counts as having none: it is judged where
    it ends, as noise. HARMLESS rises do not count either.
    """
    rising = [t > s for s, t in pairwise(sigmas)]
    if all(rising) or not any(rising):
        return Rises()
    calls, growth = 0, 1.0
    path = [*levels, sigmas[-1]]
    for index in range(len(levels), 0, -1):
        s, t = path[index - 1 : index + 1]
        growth *= max(1.0, t / max(s, LEAST_LEVEL))
        if not calls and growth > HARMLESS:
            calls = index
    return Rises(calls, growth) if calls else Rises()
