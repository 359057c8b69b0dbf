"""What was saved in Settings > Parallel holds without a browser."""

from __future__ import annotations

import json
from pathlib import Path

import live_server
import pytest
from compact_parallel.workflows.client import Refused

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A server that finds settings of an earlier session."""
    folder = tmp_path_factory.mktemp("settled")
    save(folder, {"CompactParallel.IdleMinutes": 3, "CompactParallel.DefaultDevices": "cpu*3", "Comfy.Locale": "en"})
    with live_server.running(folder) as talk:
        yield talk


def save(folder: Path, settings: dict) -> None:
    file = folder / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))


def without_pool(make, find, **changes):
    workflow = make("tiny_exact", **changes)
    del workflow[find(workflow, "Parallel Model")]["inputs"]["pool"]
    workflow[find(workflow, "Parallel Strategy")]["inputs"] = {}
    return workflow


def test_the_idle_time_holds_from_the_start(settled):
    assert settled.server.get("/parallel/settings") == {"idle_minutes": 3.0}


def test_the_default_devices_hold_and_a_change_is_another_run(settled, make, find):
    workflow = without_pool(make, find, KSampler__seed=1)
    settled.run(workflow)
    first = settled.server.get("/parallel/runs/latest")
    assert first["devices"] == ["cpu", "cpu", "cpu"]
    save(settled.folder, {"CompactParallel.DefaultDevices": "cpu,cpu"})
    settled.run(workflow)
    second = settled.server.get("/parallel/runs/latest")
    assert second["devices"] == ["cpu", "cpu"] and second["run_id"] != first["run_id"]


@pytest.mark.parametrize("devices", ["gpu0", "cuda:0"])
def test_wrong_default_devices_are_refused_with_their_place(settled, make, find, devices):
    save(settled.folder, {"CompactParallel.DefaultDevices": devices})
    with pytest.raises(Refused, match=f"The default devices in Settings > Parallel are wrong: devices: .*{devices}"):
        settled.run(without_pool(make, find))
    settled.run(make("tiny_exact", KSampler__seed=2))  # a pool that is plugged in does not ask the settings


def test_a_broken_file_is_an_empty_one(settled, make, find):
    (settled.folder / "user" / "default" / "comfy.settings.json").write_text("{")
    settled.run(without_pool(make, find, KSampler__seed=3))
    assert settled.server.get("/parallel/runs/latest")["devices"] == ["cpu", "cpu"]
