"""The ledger adds up what it is told, and the report is derived from the ledgers of all ranks."""

import json
import math

import pytest
from compact_parallel.runtime.report.ledger import Ledger, run_report

COMMON = {
    "run_id": "run-1",
    "model": "tiny",
    "devices": ["cpu", "cpu"],
    "strategy": {"mode": "auto"},
    "compression": {"mode": "codec", "codec": "2bit"},
    "seconds": 5.0,
    "sampling_seconds": 4.0,
}
DESIGN_FIELDS = [
    "run_id", "model", "workers", "devices", "strategy", "compression", "step_reuse", "calls", "rounds", "accepted",
    "evaluations_per_rank", "seconds", "sampling_seconds", "bytes_sent", "bytes_uncompressed", "effective_ratio",
    "exposed_seconds", "hidden_seconds", "bits", "max_relative_error", "restarts", "resumed_calls", "fallbacks",
    "warnings",
]  # fmt: skip


class Clock:
    """time.perf_counter under the test's control."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("compact_parallel.runtime.report.ledger.time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def two_ranks():
    first, second = Ledger(), Ledger()
    for rank, ledger in enumerate((first, second)):
        for index in range(3):
            ledger.begin_call(index, 1.0 - index / 3)
            ledger.sent(100 if index else 400, 800)
            ledger.stream_error(0.01 if index == 0 else 0.05 * (rank + index), 8.0 if index == 0 else 2.0, "2bit")
            with ledger.phase("model"), ledger.phase("encode"):
                pass
    second.base_bytes(50)
    second.base_bytes(20)
    second.hidden(0.25)
    return first, second


def report_of(*ledgers, **changes):
    return run_report([ledger.to_json() for ledger in ledgers], **COMMON | changes)


def test_report_has_every_field_of_the_design_and_is_clean_json():
    report = report_of(*two_ranks())
    assert set(DESIGN_FIELDS) <= set(report)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_what_the_calls_were_is_counted():
    ledger = Ledger()
    for conditions in (2, 1, 2):
        ledger.asked(conditions)
    ledger.shared("data", True)
    for reason in ("patches", "patches", "frames"):
        ledger.shared("data", False, reason)
    told = ledger.to_json()
    assert told["asked"] == {"1": 1, "2": 2}
    assert told["shared"] == {"data": {"divided": 1, "whole": 3, "reasons": ["patches", "frames"]}}
    assert json.loads(json.dumps(told)) == told


def test_report_is_derived_from_all_ranks():
    report = report_of(*two_ranks())
    assert (report["workers"], report["calls"], report["rounds"], report["accepted"]) == (2, 3, 3, [1, 1, 1])
    assert report["evaluations_per_rank"] == [3, 3]
    assert report["bytes_sent_per_call"] == [800, 200, 200]
    assert report["bytes_uncompressed_per_call"] == [1600, 1600, 1600]
    assert (report["bytes_sent"], report["bytes_uncompressed"], report["effective_ratio"]) == (1200, 4800, 4.0)
    assert report["bits"] == [8.0, 2.0, 2.0]
    assert report["error_per_call"] == pytest.approx([0.01, 0.10, 0.15])
    assert report["max_relative_error"] == pytest.approx(0.15)
    assert report["hidden_seconds"] == 0.25
    assert report["base_bytes"] == 50
    assert report["step_reuse"] == {"mode": "off"}


def test_the_second_rank_counts():
    """Negative control of the sums and maxima: without rank 1 they are others."""
    first, second = two_ranks()
    both, alone = report_of(first, second), report_of(first, devices=["cpu"])
    for name in ("workers", "bytes_sent", "max_relative_error", "hidden_seconds", "base_bytes", "evaluations_per_rank"):
        assert both[name] != alone[name]


def test_phases_add_up_to_the_time_of_the_call(clock):
    ledger = Ledger()
    ledger.begin_call(0, 1.0)
    with ledger.phase("model"):
        clock.now += 1.0
        with ledger.phase("encode"):
            clock.now += 0.25
        with ledger.phase("exposed"):
            clock.now += 0.5
        clock.now += 2.0
    with ledger.phase("exposed"):
        clock.now += 4.0
    report = report_of(ledger, devices=["cpu"])
    assert report["phases"] == [{"compute": 3.0, "encode": 0.25, "exposed": 4.5}]
    assert report["seconds_per_call"] == [7.75]
    assert report["exposed_seconds"] == 4.5


def test_phase_counts_when_the_block_raises(clock):
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.phase("model"), ledger.phase("decode"):
        clock.now += 1.0
        raise KeyError
    with ledger.phase("model"):
        clock.now += 2.0
    assert ledger.to_json()["outside"]["seconds"] == {"decode": 1.0, "model": 2.0}


def test_records_outside_a_call_are_in_the_totals_only():
    ledger = Ledger()
    ledger.sent(7, 14)
    ledger.begin_call(0, math.inf)
    report = report_of(ledger, devices=["cpu"])
    assert report["bytes_sent"] == 7
    assert report["bytes_sent_per_call"] == [0]
    assert report["sigmas"] == [None]


def test_without_codec_the_bits_are_those_of_the_bytes():
    ledger = Ledger()
    ledger.begin_call(0, 1.0)
    ledger.sent(4000, 2000)
    ledger.begin_call(1, 0.5)
    report = report_of(ledger, devices=["cpu"], compression={"mode": "off"})
    assert report["bits"] == [32.0, 0.0]
    assert report["max_relative_error"] is None
    assert report["effective_ratio"] == 0.5


def test_one_rank_that_sent_nothing():
    ledger = Ledger()
    report = report_of(ledger, devices=["cpu"])
    assert report["effective_ratio"] is None
    assert (report["calls"], report["accepted"]) == (0, [])
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_error_that_is_no_number_is_said_and_not_hidden(bad):
    ledger = Ledger()
    ledger.begin_call(0, 1.0)
    ledger.stream_error(0.5, 2.0, "2bit")
    assert report_of(ledger)["warnings"] == []
    ledger.stream_error(bad, 2.0, "2bit")
    report = report_of(ledger)
    assert report["max_relative_error"] == 0.5
    assert len(report["warnings"]) == 1


def test_a_warning_is_said_once_over_all_ranks():
    first, second = Ledger(), Ledger()
    for ledger in (first, second):
        ledger.warn("Slow link.")
        ledger.warn("Slow link.")
    second.warn("Small base.")
    assert report_of(first, second, warnings=["From the parent."])["warnings"] == [
        "From the parent.",
        "Slow link.",
        "Small base.",
    ]
