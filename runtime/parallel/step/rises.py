"""Schedules that rise again: where on them calls may be made ahead of their time, and how good guesses must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

HARMLESS = 1.05
"""Rises that let an error grow no more than this, such as rounding in a schedule, are let be."""

LEAST_LEVEL = 1e-6
"""A rise from a noise level below this is one from this, so that the growth stays a number."""


@dataclass(frozen=True)
class Rises:
    """What the rises of a schedule do to a sampler's calls.

    `calls`: how many of them come before the last rise; `growth`: how many times as large an error may have become.
    """

    calls: int = 0
    growth: float = 1.0


def rises_of(sigmas: Sequence[float], levels: Sequence[float]) -> Rises:
    """Those of the schedule `sigmas`, on which a sampler makes calls at the noise levels `levels`.

    Whether a guess is good enough is judged by what its error will be at the end, and that is known where noise levels
    only fall: a step from level s to t takes a latent x to (t/s) x + (1 - t/s) D(x), so a change e of x to
    (t/s) e + (1 - t/s) J e, where D takes the part J of it: none where the picture is decided, all where it is not.
    With t < s that shrinks or keeps e. On a rise it is up to t/s times e (J = 0), and a fall after it need not give
    that back, for at another level J is another. So

        growth = the product of t / s over all rises on the way.

    Before the last rise no guess is good enough: on a path that goes back and forth it is made across a turn, and its
    error may double each time. Behind it `growth` is what has become of the sampler's own errors. They have led it
    off the paths that the model was trained for, where all is that much more sensitive.

    A schedule that only falls has no rises. One that only rises (unsampling) counts as having none: it is judged where
    it ends, as noise. Nor do those count that are HARMLESS.
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
