"""A Link's JSON form, which the pool's status shows, and the speed of the codecs that goes into it."""

import json

import pytest
import torch
from compact_parallel.runtime.planner.codec_speed import codec_seconds_per_value
from compact_parallel.runtime.planner.compression import CANDIDATES
from compact_parallel.runtime.planner.link import Link

LINK = Link(1.18e7, 2.5e-4, {"int8": 8.5e-9, "2bit": 1.2e-8})


def test_the_json_form_is_for_people():
    assert LINK.to_json() == {
        "bytes_per_second": pytest.approx(11_800_000),
        "latency_ms": pytest.approx(0.25),
        "codec_ns_per_value": {"int8": pytest.approx(8.5), "2bit": pytest.approx(12)},
        "cards": "",
    }


def test_the_json_form_comes_back():
    again = Link.from_json(json.loads(json.dumps(LINK.to_json())))
    assert again.bytes_per_second == LINK.bytes_per_second
    assert again.latency_s == pytest.approx(LINK.latency_s)
    assert again.codec_seconds_per_value == pytest.approx(LINK.codec_seconds_per_value)


def test_the_codecs_are_measured_and_nothing_is_left_behind():
    state = torch.get_rng_state()
    seconds = codec_seconds_per_value(torch.device("cpu"))
    assert tuple(seconds) == CANDIDATES
    assert all(1e-10 < value < 1e-6 for value in seconds.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.is_inference_mode_enabled()
