"""What earlier runs have shown, and when it is forgotten."""

from __future__ import annotations

from compact_parallel.runtime.planner.experience import TRIES, Experience


def test_nothing_is_known_before_the_first_run():
    fresh = Experience()
    assert fresh.conditions("asking") is None
    assert fresh.idle("workflow") == frozenset()
    assert fresh.expected_failure("workflow", 1) == ""


def test_the_last_run_counts_and_kinds_that_were_not_used_keep_what_is_known_of_them():
    seen = Experience()
    seen.learn("asking", 1)
    seen.learn("asking", 2)
    seen.ran("workflow", busy=["cfg"], idle=["data", "step"])
    seen.ran("workflow", busy=["data"], idle=[])
    assert (seen.conditions("asking"), seen.conditions("another")) == (2, None)
    assert seen.idle("workflow") == {"step"}
    assert seen.idle("another") == frozenset()


def test_failures_in_a_row_are_expected_until_the_workers_are_started_again():
    seen = Experience()
    for starts in range(1, TRIES + 1):
        assert seen.expected_failure("workflow", starts) == ""
        seen.failed("workflow", starts, "out of nails")
    assert seen.expected_failure("workflow", TRIES) == "out of nails"
    assert seen.expected_failure("workflow", TRIES + 1) == ""
    assert seen.expected_failure("another", TRIES) == ""
    seen.ran("workflow", [], [])
    assert seen.expected_failure("workflow", TRIES) == ""


def test_the_oldest_workflows_are_forgotten():
    seen = Experience(kept=2)
    for workflow in "abac":
        seen.learn(workflow, 1)
    assert [seen.conditions(workflow) for workflow in "abc"] == [1, None, 1]
