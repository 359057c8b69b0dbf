"""What mode "auto" means: off where the link is fast, else the most exact codec that is nearly the fastest."""

from dataclasses import replace
from pathlib import Path

import pytest
from compact_parallel.runtime.compression.codecs import BY_NAME, OFFERED
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.planner import compression
from compact_parallel.runtime.planner.compression import CANDIDATES, resolve, seconds_per_value
from compact_parallel.runtime.planner.link import Link
from hypothesis import given
from hypothesis import strategies as st

AUTO = CompressionConfig(predictor="previous", warmup_calls=3, keep_text_exact=True, mode="auto")
CPU = {"int8": 8.5e-9, "4bit": 13.5e-9, "3bit": 15e-9, "2bit": 12e-9}
"""Measured on one core of a server."""
GPU = dict.fromkeys(CANDIDATES, 2e-11)
FREE = dict.fromkeys(CANDIDATES, 0.0)
MBIT = 1e6 / 8


def chosen(bytes_per_second, codecs, dtype_itemsize=4):
    """ "off" or the codec's name."""
    config = resolve(AUTO, Link(bytes_per_second, 1e-3, codecs), dtype_itemsize=dtype_itemsize)
    return config.codec if config.enabled else "off"


@pytest.mark.parametrize(
    ("mbit", "codecs", "dtype_itemsize", "expected"),
    [
        (100, CPU, 4, "2bit"),
        (100, CPU, 2, "2bit"),
        (1000, CPU, 4, "off"),  # coding saves half of the time on the link, and half of that is hidden
        (1000, CPU, 2, "off"),  # a value crosses in 16 ns and no codec is done before
        (10_000, CPU, 4, "off"),
        (10_000, CPU, 2, "off"),
        (100, GPU, 2, "2bit"),
        (1000, GPU, 2, "2bit"),
        (10_000, GPU, 2, "2bit"),
        (128_000, GPU, 2, "3bit"),  # PCIe
        (3_600_000, GPU, 2, "off"),  # NVLink
        (1, CPU, 4, "2bit"),  # never 1 bit
    ],
)
def test_choices(mbit, codecs, dtype_itemsize, expected):
    assert chosen(mbit * MBIT, codecs, dtype_itemsize) == expected


@pytest.mark.parametrize("mode", ["off", "ratio", "quality", "codec"])
@pytest.mark.parametrize("link", [None, Link(1.0, 1.0, FREE), Link(1e12, 0.0, CPU)])
def test_any_other_mode_is_the_users_choice(mode, link):
    config = replace(AUTO, mode=mode, codec="1bit")
    assert resolve(config, link, dtype_itemsize=4) == config


def test_only_mode_and_codec_change():
    done = resolve(AUTO, Link(100 * MBIT, 1e-3, CPU), dtype_itemsize=4)
    assert done == replace(AUTO, mode="codec", codec="2bit")
    with pytest.raises(ValueError, match="must be resolved"):
        _ = AUTO.enabled


def test_no_link_is_off():
    assert resolve(AUTO, None, dtype_itemsize=4) == replace(AUTO, mode="off")


def test_no_measured_codec_is_off():
    assert chosen(1.0, {}) == "off"


@pytest.mark.parametrize("codec", sorted(set(OFFERED) - set(CANDIDATES)))
def test_what_auto_may_not_choose_is_not_chosen_however_fast(codec):
    assert chosen(1.0, {codec: 0.0}) == "off"
    assert chosen(1.0, {**CPU, codec: 0.0}) == "2bit"


@pytest.mark.parametrize("codec", CANDIDATES)
def test_a_codec_that_was_not_measured_is_not_chosen(codec):
    only = {codec: CPU[codec]}
    assert chosen(1.0, only) == codec
    rest = {name: CPU[name] for name in CANDIDATES if name != codec}
    assert chosen(1.0, rest) in rest


@pytest.mark.parametrize(("part", "expected"), [(0.39, "4bit"), (0.41, "off"), (0.99, "off"), (1.5, "off")])
def test_compression_must_pay_clearly(part, expected):
    raw = 4 / 1e9
    travels = BY_NAME["4bit"].bits(1024, 1024) / 8 / 1e9
    assert chosen(1e9, {"4bit": part * raw - travels}) == expected


@pytest.mark.parametrize(("times", "expected"), [(1.0, "int8"), (1.24, "int8"), (1.26, "2bit")])
def test_the_more_exact_codec_may_take_a_little_longer(times, expected):
    cost = seconds_per_value(Link(1e7, 0.0, FREE), dtype_itemsize=4)
    assert chosen(1e7, {"int8": times * 1e-7 - cost["int8"], "2bit": 1e-7 - cost["2bit"]}) == expected


def test_a_more_exact_codec_that_does_not_pay_itself_is_not_taken():
    """It is nearly as fast as the fastest, but too near to what no compression takes."""
    raw = 4 / 1e9
    cost = seconds_per_value(Link(1e9, 0.0, FREE), dtype_itemsize=4)
    part = {"int8": 0.41 * raw - cost["int8"], "4bit": 0.39 * raw - cost["4bit"]}
    assert chosen(1e9, part) == "4bit"
    assert chosen(1e9, {**part, "int8": part["int8"] - 0.02 * raw}) == "int8"


def test_the_cost_is_travel_and_coding():
    link = Link(1e8, 5.0, CPU)
    cost = seconds_per_value(link, dtype_itemsize=4)
    assert cost["off"] == pytest.approx(4e-8)
    assert cost["int8"] == pytest.approx(8.5 / 8 / 1e8 + 8.5e-9)
    assert cost["2bit"] == pytest.approx(2 / 8 / 1e8 + 12e-9, rel=0.03)
    assert list(cost) == ["off", *CANDIDATES]
    assert seconds_per_value(replace(link, latency_s=0.0), dtype_itemsize=4) == cost
    assert seconds_per_value(link, dtype_itemsize=2)["off"] == pytest.approx(2e-8)
    assert seconds_per_value(link, dtype_itemsize=2)["2bit"] == cost["2bit"]


speeds = st.floats(1e3, 1e13)
codings = st.fixed_dictionaries(dict.fromkeys(CANDIDATES, st.floats(0, 1e-6)))


@given(speeds, codings, st.sampled_from([1, 2, 4]))
def test_what_is_chosen_saves_clearly_and_nothing_more_exact_would_do(bytes_per_second, codecs, dtype_itemsize):
    cost = {name: BY_NAME[name].bits(1024, 1024) / 8 / bytes_per_second + seconds for name, seconds in codecs.items()}
    raw = dtype_itemsize / bytes_per_second
    good = {name for name in cost if cost[name] < 0.4 * raw and cost[name] <= 1.25 * min(cost.values())}
    choice = chosen(bytes_per_second, codecs, dtype_itemsize)
    if choice == "off":
        assert min(cost.values()) >= 0.4 * raw
    else:
        assert choice in good
        assert not good & set(CANDIDATES[: CANDIDATES.index(choice)])


@given(speeds, codings, st.floats(1, 1e4))
def test_a_faster_link_never_needs_what_a_slower_one_did_not(bytes_per_second, codecs, times):
    if chosen(bytes_per_second, codecs) == "off":
        assert chosen(times * bytes_per_second, codecs) == "off"


def test_the_candidates_are_codecs_from_exact_to_coarse():
    bits = [BY_NAME[name].bits(1024, 1024) for name in CANDIDATES]
    assert bits == sorted(bits, reverse=True)
    assert set(CANDIDATES) <= set(OFFERED)


def test_the_planner_talks_to_no_other_process():
    for file in Path(compression.__file__).parent.glob("*.py"):
        text = file.read_text()
        assert "torch.distributed" not in text
        assert "..pool" not in text
