"""Keyframes of hooks stand where they do in one process, in whatever order calls are evaluated."""

from types import SimpleNamespace

import pytest
from tiny_diffusion import needs_comfyui

pytestmark = needs_comfyui
LEVELS = [1.0, 0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
EXTRA = {"model_options": {"transformer_options": {}}}


def scheduled(guarantee_steps=1, **about):
    """A guider with one condition whose hook has five keyframes, and those."""
    import comfy.hooks
    import torch

    EXTRA["model_options"]["transformer_options"]["sample_sigmas"] = torch.tensor(LEVELS)
    schedule = comfy.hooks.HookKeyframeGroup()
    for place in range(5):
        frame = comfy.hooks.HookKeyframe(1.0 - place / 5, start_percent=place / 5, guarantee_steps=guarantee_steps)
        frame.start_t = 1.0 - place / 5
        schedule.add(frame)
    hooks = comfy.hooks.HookGroup()
    hooks.add(comfy.hooks.TransformerOptionsHook({"transformer_options": {}}))
    hooks.set_keyframes_on_hooks(schedule)
    cleared = []
    patcher = SimpleNamespace(clear_cached_hook_weights=lambda: cleared.append(1))
    cond = {"hooks": hooks, **about}
    return (
        SimpleNamespace(model_patcher=patcher, conds={"positive": [cond, {}], "negative": [{}]}),
        hooks.hooks[0].hook_keyframe,
        cleared,
    )


def strength_at(schedule, index):
    """What the call has, as ComfyUI asks for it."""
    schedule.prepare_current_keyframe(LEVELS[index], EXTRA["model_options"]["transformer_options"])
    return schedule.strength


@pytest.mark.parametrize("guarantee_steps", [0, 1, 3])
@pytest.mark.parametrize("ranged", [{}, {"timestep_start": 0.85, "timestep_end": 0.25}], ids=["all", "ranged"])
def test_any_order_is_as_good_as_one_after_the_other(guarantee_steps, ranged):
    from compact_parallel.runtime.comfy.wrappers.hook_keyframes import Schedules

    _, schedule, _ = scheduled(guarantee_steps)
    taking_part = [i for i, level in enumerate(LEVELS) if not ranged or 0.25 <= level <= 0.85]
    expected = {index: strength_at(schedule, index) for index in taking_part}
    assert len(set(expected.values())) > 1

    order = [index for place in range(0, len(LEVELS), 3) for index in (place + 2, place, place + 1, place)]
    order = [index for index in order if index in expected]
    guider, schedule, cleared = scheduled(guarantee_steps, **ranged)
    schedules = Schedules(guider)
    for index in order:
        schedules.put_behind(LEVELS[:index], EXTRA)
        assert strength_at(schedule, index) == expected[index], index
    assert cleared, "weights of another strength were forgotten"

    _, schedule, _ = scheduled(guarantee_steps)
    assert [strength_at(schedule, index) for index in order] != [expected[index] for index in order]


def test_weights_are_kept_while_the_strength_is_the_same():
    from compact_parallel.runtime.comfy.wrappers.hook_keyframes import Schedules

    guider, schedule, cleared = scheduled()
    schedules = Schedules(guider)
    for index in (0, 1, 1, 0):
        schedules.put_behind(LEVELS[:index], EXTRA)
        strength_at(schedule, index)
    assert not cleared
