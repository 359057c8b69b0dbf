"""The report in words."""

import pytest
from compact_parallel.runtime.report.ledger import Ledger, run_report
from compact_parallel.runtime.report.summary import format_bytes, format_devices, format_seconds, plural, summarize


def make_report(sent=250, uncompressed=1000, **changes):
    ledger = Ledger()
    ledger.begin_call(0, 1.0)
    ledger.sent(sent, uncompressed)
    if sent < uncompressed:
        ledger.stream_error(0.081, 2.0, "2bit")
    report = run_report(
        [ledger.to_json()] * 2,
        run_id="r",
        model="tiny",
        devices=["cpu", "cpu"],
        strategy={},
        compression={},
        seconds=7.0,
        sampling_seconds=6.4,
    )
    return report | changes


def test_numbers_as_a_person_says_them():
    assert [format_bytes(n) for n in (0, 999, 1000, 12_345, 999_960, 3_400_000, 5e12)] == [
        "0 B", "999 B", "1.0 kB", "12.3 kB", "1.0 MB", "3.4 MB", "5.0 TB",
    ]  # fmt: skip
    assert [format_seconds(s) for s in (0.041, 6.44, 75.2)] == ["0.04 s", "6.4 s", "75 s"]
    assert [plural(n, "worker") for n in (0, 1, 2)] == ["0 workers", "1 worker", "2 workers"]
    assert format_devices(["cpu", "cpu"]) == "cpu x 2"
    assert format_devices(["cuda:0", "cuda:1"]) == "cuda:0, cuda:1"
    assert format_devices([f"cuda:{i}" for i in range(8)]) == "cuda:0 ... cuda:7"


def test_summary_of_a_compressed_run():
    text = summarize(make_report())
    assert "tiny on 2 workers (cpu x 2): 1 model call in 6.4 s." in text
    assert "Sent 500 B, 4 bits per value, instead of 2.0 kB at 16 (4.0 times less)." in text
    assert "8.10%" in text


def test_summary_of_an_exact_run_claims_no_saving():
    text = summarize(make_report(sent=2000))
    assert "32 bits per value." in text
    assert "less" not in text and "error" not in text


def test_summary_of_a_run_that_sent_nothing():
    text = summarize(make_report(sent=0, uncompressed=0, max_relative_error=None))
    assert "Nothing was sent" in text and "waited" not in text


def test_summary_of_a_run_without_the_workers_counts_no_workers_and_no_calls():
    one_device = {"workers": 1, "devices": ["cuda:0"], "calls": 0, "fallbacks": ["Odd thing."]}
    text = summarize(make_report(sent=0, uncompressed=0, max_relative_error=None, **one_device))
    assert text.splitlines() == ["tiny on one device (cuda:0), without the workers: 6.4 s.", "Fallback: Odd thing."]


@pytest.mark.parametrize("field", ["fallbacks", "warnings"])
def test_nothing_is_kept_quiet(field):
    assert "Odd thing." in summarize(make_report(**{field: ["Odd thing."]}))
    assert "Odd thing." not in summarize(make_report())
