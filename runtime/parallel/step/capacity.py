"""How many calls a round may have: a value that is revised by what the run shows, and agreed on by the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

# A batch of q calls must save at least this share of the time of q calls one by one, or it is not tried again.
WORTH_BATCHING = 0.03


@dataclass(frozen=True)
class Capacity:
    """The most calls of a round now.

    Args:
        calls: the most calls.
        groups: step groups, each of which evaluates one call at a time without batches.
        batched: the most calls of a round if groups evaluate several as one batch; 0 if they do not.
        seconds_of_one: the shortest time of one call so far.
        given_up: why batches were given up in the last revision; empty if they were not.
    """

    calls: int
    groups: int
    batched: int
    seconds_of_one: float = math.inf
    given_up: str = ""

    @classmethod
    def first(cls, look_ahead: int, groups: int, *, batches: bool) -> Capacity:
        """The capacity before the first call.

        One call is timed first: in the warm-up, or with several groups in a round of one call each. `batches`: whether
        a group may evaluate several calls as one batch.
        """
        return cls(min(look_ahead, groups), groups, look_ahead if batches and look_ahead > groups else 0)

    def revise(self, calls: int, seconds: float, has_room: Callable[[int], bool]) -> Capacity:
        """After a group has evaluated `calls` calls at once in `seconds`.

        Batches are tried once the time of one call is known, if there is memory: `has_room`(n) tells whether n calls
        fit as one batch. A batch that takes as long as its calls one by one gains nothing and risks a rejection, so
        that batches are then given up.
        """
        if calls == 1:
            timed = replace(self, seconds_of_one=min(self.seconds_of_one, seconds), given_up="")
            if self.batched > self.calls and not has_room(math.ceil(self.batched / self.groups)):
                return timed._without_batches("the memory of a device is too small for a batch of several")
            return replace(timed, calls=max(self.calls, self.batched))
        if calls > 1 and seconds > (1 - WORTH_BATCHING) * calls * self.seconds_of_one:
            return self._without_batches("as one batch, several took as long as one by one")
        return replace(self, given_up="")

    def agreed(self, calls: int) -> Capacity:
        """With rank 0's number of calls. If that rank has given up batches, so does this one."""
        return replace(self, calls=calls, batched=0 if calls < self.batched else self.batched)

    def none_ahead(self) -> Capacity:
        """From now on one call at a time."""
        return replace(self, calls=1, batched=0)

    def _without_batches(self, reason: str) -> Capacity:
        return replace(self, calls=min(self.calls, self.groups), batched=0, given_up=reason)
