"""The figure shows what the report says, for every size of run, and touches nothing global."""

import json
import sys

import numpy as np
import pytest
from compact_parallel.runtime.compression.codecs import COARSE_TO_EXACT
from compact_parallel.runtime.report.ledger import Ledger, run_report
from compact_parallel.runtime.report.plot import draw, to_pixels


def make_report(ranks=2, calls=8, compressed=True, sends=True, bound=None):
    ledgers = []
    for rank in range(ranks):
        ledger = Ledger()
        for index in range(calls):
            ledger.begin_call(index, 1 - index / calls)
            with ledger.phase("model"), ledger.phase("exposed"):
                sum(range(1000))
            if sends:
                ledger.sent(300 + rank if compressed else 4000, 2000)
            if compressed:
                ledger.stream_error(0.01 * (index + 1), 2.0, "int8" if index == 0 else "2bit")
                ledger.stream_error(0.01, 2.0, "2bit")
        ledgers.append(ledger.to_json())
    return run_report(
        ledgers,
        run_id="r",
        model="tiny",
        devices=["cpu"] * ranks,
        strategy={},
        compression={"mode": "quality", "max_relative_error": bound} if bound else {"mode": "codec"},
        seconds=1.0,
        sampling_seconds=0.9,
    )


SIZES = {
    "two workers": {},
    "no compression": {"compressed": False},
    "one call": {"calls": 1},
    "hundred calls, eight workers": {"ranks": 8, "calls": 100},
    "one worker": {"ranks": 1, "compressed": False, "sends": False},
    "no call": {"calls": 0},
    "bound": {"bound": 0.2},
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_every_size_of_run_can_be_drawn_and_all_text_is_inside(size):
    report = make_report(**size)
    figure = draw(json.loads(json.dumps(report)), COARSE_TO_EXACT)
    pixels = to_pixels(figure)
    height, width, _ = pixels.shape
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert width == 900 and 800 < height < 1500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all(), "something is cut off at the edge"


def labels(axes):
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_bars_and_lines_have_the_reports_values():
    report = make_report(ranks=3, bound=0.2)
    time_axes, bytes_axes, bits_axes, error_axes = draw(report, COARSE_TO_EXACT).axes
    width = sum(bar.get_width() for bar in time_axes.patches)
    assert width == pytest.approx(sum(sum(rank.values()) for rank in report["phases"]))
    assert list(bytes_axes.patches[0].get_data().values) == report["bytes_sent_per_call"]
    assert list(bytes_axes.patches[1].get_data().values) == report["bytes_uncompressed_per_call"]
    assert labels(bits_axes) == ["2bit", "int8"]
    assert [bar.get_height() for bar in bits_axes.patches] == [0.5, *[1.0] * 7, 0.5, *[0.0] * 7]
    assert [text.get_text() for text in bits_axes.texts] == [f"{bits:.1f}" for bits in report["bits"]]
    assert list(error_axes.lines[0].get_ydata()) == report["error_per_call"]
    assert labels(error_axes) == ["measured", "asked for at most 0.2"]
    assert labels(draw(make_report(), COARSE_TO_EXACT).axes[3]) == []


def test_codecs_are_stacked_from_coarse_to_exact_and_others_by_name():
    names = ["uncompressed", "low_rank", "int8", "fp8", "half", "2bit", "16bit", "skip"]
    report = make_report(calls=1) | {"codecs_per_call": [dict.fromkeys(names, 1)]}
    stacked = ["skip", "2bit", "fp8", "int8", "uncompressed", "16bit", "half", "low_rank"]
    assert labels(draw(report, COARSE_TO_EXACT).axes[2]) == stacked
    assert labels(draw(report, ()).axes[2]) == ["uncompressed", *sorted(set(names) - {"uncompressed"})]


def test_changed_report_changes_the_picture():
    """Negative control: the pixels depend on the numbers."""
    report = make_report()
    more = report | {"bytes_sent_per_call": [2 * n for n in report["bytes_sent_per_call"]]}
    assert not np.array_equal(to_pixels(draw(report, COARSE_TO_EXACT)), to_pixels(draw(more, COARSE_TO_EXACT)))
    assert np.array_equal(to_pixels(draw(report, COARSE_TO_EXACT)), to_pixels(draw(report, COARSE_TO_EXACT)))


def test_pyplot_is_not_used(monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    to_pixels(draw(make_report(), COARSE_TO_EXACT))
    assert "matplotlib.pyplot" not in sys.modules
