"""Code that a workflow puts into a model, on pools of real workers that split its tokens."""

from __future__ import annotations

import sys

import cloudpickle
import pytest
from comfy.patcher_extension import PatcherInjection
from compact_parallel.runtime.pool.errors import JobFailed
from features import patches
from features.scenes import replace, scene
from sampling import TOLERANCE, parallel, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import these files
cloudpickle.register_pickle_by_value(patches)


def nothing(patcher):
    """What an injection is that acts by functions no module holds."""


def test_a_changed_block_runs_whole_and_the_report_says_so():
    made = patches.COMMON["Object patch on a block"]("flux")
    expected = made.sample()
    for degrees in ({"ring_degree": 2}, {"ulysses_degree": 2}):
        samples = made.sample(lambda model, degrees=degrees: parallel(model, 2, **degrees))
        assert relative_error(samples, expected) < TOLERANCE
        (warning,) = report()["warnings"]
        assert warning.startswith("A workflow has put code of its own into double_blocks.0: every worker runs 1 of")
    plain = scene("flux")
    assert relative_error(plain.sample(), expected) > 10 * TOLERANCE
    assert relative_error(plain.sample(lambda model: parallel(model, 2, ring_degree=2)), plain.sample()) < TOLERANCE
    assert report()["warnings"] == []


def test_an_injection_that_no_module_shows_is_refused():
    injected = scene("flux").model.clone()
    injected.set_injections("motion", [PatcherInjection(inject=nothing, eject=nothing)])
    with pytest.raises(
        JobFailed, match=r"with an injection \(motion\) of which no module shows what it does; set"
    ) as caught:
        replace(scene("flux"), model=injected).sample(lambda model: parallel(model, 2, ring_degree=2))
    assert "Traceback" not in str(caught.value)
