"""A real sampling job on workers that another Launcher has started, with a store that is not one folder."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.comfy.shipping import pickling
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.tests.pool.agent_launcher import AgentLauncher, AgentSite
from sampling import TOLERANCE, expected, ksampler, model, parallel, pool, relative_error, report


@pytest.fixture
def agents(monkeypatch, tmp_path):
    """The pool of two workers is started by an agent, and stopped at the end."""
    pool(2).stop()
    monkeypatch.setattr(pools(), "launcher", AgentLauncher(tmp_path))
    monkeypatch.setattr(pools(), "_pools", {})
    yield tmp_path
    pool(2).stop()


def test_the_result_is_stocks_and_changed_weights_travel_through_the_store(agents, monkeypatch):
    monkeypatch.setattr(pickling, "INLINE_BYTES", 0)  # the tiny model's tensors are small
    changed = model("flux").clone()
    name = next(key for key, weight in changed.model_state_dict().items() if weight.ndim == 2)
    patch = torch.randn(changed.model_state_dict()[name].shape, generator=torch.Generator().manual_seed(3))
    changed.add_patches({name: (patch,)}, 0.5)
    stock = ksampler(changed, "flux")
    assert relative_error(stock, expected("flux", "euler")) > 1e-3
    samples = ksampler(parallel(changed, 2, ring_degree=2), "flux")
    assert relative_error(samples, stock) < TOLERANCE
    assert report()["workers"] == 2 and report()["fallbacks"] == []
    assert isinstance(pool(2)._group._site, AgentSite)
    ours, theirs = sorted(agents.glob("pool-*")), sorted(agents.glob("agent-*"))
    stored = {path.name for folder in ours for path in folder.glob("*.safetensors")}
    fetched = {path.name for folder in theirs for path in folder.glob("*.safetensors")}
    assert fetched and fetched <= stored
