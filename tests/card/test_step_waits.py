"""How often Step Reuse makes the host wait for the card, counted on a simulated one."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from compact_parallel.runtime.parallel.step import rounds
from device import DEVICE
from distributed import launch
from sequence_parts import axes
from simulated_card import SimulatedCard
from tiny_diffusion import needs_comfyui

pytestmark = [needs_comfyui, pytest.mark.skipif(DEVICE != "cpu", reason="here are real cards")]
STEPS = 20
MOST = 2
"""The most waits per model call of the sampler, those in ComfyUI's own code not counted."""
SAMPLERS = ["euler", "dpmpp_2m", "heun", "uni_pc", "euler_ancestral"]


def moved_by_the_device(space, denoised, made, asked):
    """`moved` as it would be if a call's noise level were asked of the device."""
    return denoised + space.follows(float(asked.sigma.reshape(-1)[0])) * (asked.x - made.x)


@torch.inference_mode()
def waits_of_a_run(rank, world, samplers, spoilt):
    """{sampler: (calls of each round, waits in this pack by place, samples)} of a run with two step groups."""
    from stepping import sample_in_groups

    axis, found = axes(rank, 1, world)[1], {}
    for name in samplers:
        with (
            SimulatedCard() as card,
            mock.patch.object(rounds, "moved", moved_by_the_device if spoilt else rounds.moved),
        ):
            samples, accepted = sample_in_groups(axis, name, STEPS, card)
        ours = {at: count for at, count in card.waits.items() if at[1].startswith("runtime/")}
        found[name] = accepted, ours, card.take(samples)
    return found


@pytest.mark.parametrize("spoilt", [False, True])
def test_step_reuse_waits_at_most_twice_per_call(tmp_path, spoilt):
    for found in launch(waits_of_a_run, 2, tmp_path, SAMPLERS[: 1 if spoilt else None], spoilt):
        for name, (accepted, waits, samples) in found.items():
            assert len(accepted) < 0.8 * sum(accepted) and torch.isfinite(samples).all()
            assert (sum(waits.values()) <= MOST * sum(accepted)) != spoilt, (name, waits)


def test_so_does_one_worker_that_times_its_calls(tmp_path):
    (found,) = launch(waits_of_a_run, 1, tmp_path, ["euler"], False)
    accepted, waits, samples = found["euler"]
    assert max(accepted) > 1 and torch.isfinite(samples).all()
    assert 0 < sum(waits.values()) <= MOST * sum(accepted), waits
