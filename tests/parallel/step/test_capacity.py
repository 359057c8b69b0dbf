"""How many calls a round may have, by what the run shows: no model, no clock."""

from __future__ import annotations

import math

from compact_parallel.runtime.parallel.step.capacity import WORTH_BATCHING, Capacity


def room(most):
    return lambda calls: calls <= most


def test_without_batches_each_group_has_a_call():
    capacity = Capacity.first(4, 2, batches=False)
    assert capacity.calls == 2
    assert capacity.revise(1, 1.0, room(9)).calls == 2
    assert Capacity.first(2, 4, batches=True).calls == 2


def test_batches_are_tried_once_one_call_is_timed_and_there_is_room():
    capacity = Capacity.first(4, 2, batches=True)
    assert capacity.calls == 2
    assert capacity.revise(1, 1.0, room(2)).calls == 4
    tight = capacity.revise(1, 1.0, room(1))
    assert tight.calls == 2 and "memory of a device is too small" in tight.given_up
    assert not tight.revise(1, 1.0, room(9)).given_up  # said once


def test_a_batch_that_saves_nothing_is_given_up():
    capacity = Capacity.first(4, 2, batches=True).revise(1, 1.0, room(9))
    enough = 2 * (1 - WORTH_BATCHING)
    assert capacity.revise(2, math.nextafter(enough, 0), room(9)) == capacity
    slow = capacity.revise(2, math.nextafter(enough, 9), room(9))
    assert (slow.calls, slow.batched) == (2, 0) and "as long as one by one" in slow.given_up


def test_rank_0_decides_for_all():
    capacity = Capacity.first(4, 2, batches=True).revise(1, 1.0, room(9))
    assert capacity.agreed(4) == capacity
    assert (capacity.agreed(2).calls, capacity.agreed(2).batched) == (2, 0)
    assert capacity.none_ahead().revise(1, 0.5, room(9)).calls == 1
