"""The table of samplers, and what the help says of it."""

from __future__ import annotations

from pathlib import Path

import comfy.samplers
import pytest
from compact_parallel.runtime.parallel.step.samplers import LINE, REPLAY, SERIAL, kind_of, name_of

HELP = Path(__file__).resolve().parents[3] / "web" / "docs" / "CompactParallelStepReuse.md"


def told(name: str) -> str:
    """What the help's table says of a sampler."""
    rows = [line.split("|")[1:3] for line in HELP.read_text().splitlines() if line.startswith("| ")]
    found = [text.strip() for names, text in rows if name in [word.strip() for word in names.split(",")]]
    assert len(found) == 1, f"{name} is {len(found)} times in the help"
    return found[0]


@pytest.mark.parametrize("name", comfy.samplers.SAMPLER_NAMES)
def test_the_help_says_how_every_sampler_goes(name):
    kind = kind_of(comfy.samplers.sampler_object(name))
    words = {LINE: "along a straight line", REPLAY: "replaying", SERIAL: "one step after the other"}[kind.way]
    assert ("refused" if kind.refused else words) in told(name)
    assert ("same noise" in told(name)) == kind.noisy


def test_churn_makes_a_sampler_one_that_adds_noise():
    assert not kind_of(comfy.samplers.ksampler("euler")).noisy
    assert kind_of(comfy.samplers.ksampler("euler", {"s_churn": 1.0})).noisy


def test_a_noise_sampler_of_another_pack_makes_it_serial():
    kind = kind_of(comfy.samplers.ksampler("euler_ancestral", {"noise_sampler": lambda sigma, sigma_next: None}))
    assert kind.way == SERIAL
    assert "noise sampler of another pack" in kind.reason


def test_what_is_not_in_the_table_runs_serially():
    def sample_mine(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    kind = kind_of(comfy.samplers.KSAMPLER(sample_mine))
    assert kind.way == SERIAL
    assert "not known" in kind.reason
    assert name_of(comfy.samplers.KSAMPLER(sample_mine)) == "mine"
    assert kind_of(object()).way == SERIAL
