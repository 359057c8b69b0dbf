"""The finding of a self-check, from the workers' ledgers to the report's words."""

from __future__ import annotations

import math

import pytest
from compact_parallel.runtime.report.ledger import Ledger, run_report
from compact_parallel.runtime.report.self_check import SelfCheck
from compact_parallel.runtime.report.summary import summarize


def report_of(*found: SelfCheck | None) -> dict:
    ledgers = []
    for one in found:
        ledger = Ledger()
        ledger.begin_call(0, 1.0)
        ledger.self_check = one
        ledgers.append(ledger.to_json())
    given = {"run_id": "a", "model": "Flux", "devices": ["cpu"] * len(found), "strategy": {}, "compression": {}}
    return run_report(ledgers, **given, seconds=3.0, sampling_seconds=2.0)


def test_a_run_without_one_says_nothing_of_it():
    report = report_of(None, None)
    assert report["self_check"] is None and report["warnings"] == []
    assert "elf-check" not in summarize(report)


def test_the_largest_difference_of_all_workers_counts():
    report = report_of(SelfCheck(2, 1e-6, 1e-3), SelfCheck(2, 3e-6, 1e-3), SelfCheck(2, reason="no memory"))
    assert report["self_check"] == {"call": 2, "difference": 3e-6, "explained": 1e-3, "reason": ""}
    assert report["warnings"] == []
    said = "model call 3, evaluated whole on every device as well, has a relative difference of 3e-06"
    assert f"{said} (rounding explains up to 1e-03)." in summarize(report)


@pytest.mark.parametrize("difference", [0.02, math.inf])
def test_what_rounding_does_not_explain_is_one_warning(difference):
    report = report_of(SelfCheck(1, difference / 2, 1e-3), SelfCheck(1, difference, 1e-3))
    (warning,) = report["warnings"]
    assert warning.startswith("The self-check failed: at model call 2 ")
    assert "and rounding explains 0.1% at most" in warning
    assert f"Warning: {warning}" in summarize(report)


def test_an_inexact_exchange_is_told_and_not_blamed():
    report = report_of(SelfCheck(1, 0.2, None))
    assert report["warnings"] == []
    assert "of 2e-01 (compression or a displaced exchange adds to it)." in summarize(report)


def test_why_it_was_not_done():
    assert "Self-check: not done; no memory." in summarize(report_of(SelfCheck(1, reason="no memory")))
