"""Pools by name: the same config finds the same processes, another config replaces them."""

import pytest
from compact_parallel.runtime.config import PoolConfig
from compact_parallel.runtime.pool.registry import PoolRegistry, pools
from compact_parallel.runtime.pool.worker_group import Entry
from compact_parallel.tests.pool.support import gone, pids

ENTRY = Entry("tests.pool.handlers:Workshop", ("main.py",), {})


@pytest.fixture
def registry():
    made = PoolRegistry()
    yield made
    made.stop_all()


def get(registry, devices, name="a", **config):
    config = PoolConfig(devices=devices, name=name, **config)
    return registry.get(config, config.worker_devices(0, auto=("cpu", "cpu")), ENTRY)


def test_same_name_and_config_is_the_same_pool(registry):
    first = get(registry, "cpu*2")
    assert get(registry, "cpu*2") is first
    assert registry.find("a") is first
    assert registry.find("b") is None
    other = get(registry, "cpu*2", name="b")
    assert other is not first
    assert registry.all() == [first, other]
    assert first.starts == 0, "a pool starts with its first run"


def test_another_config_replaces_and_stops_the_old_pool(registry):
    old = get(registry, "cpu")
    other = get(registry, "cpu", name="b")
    old.start()
    other.start()
    processes, others = pids(old), pids(other)
    new = get(registry, "cpu", start_timeout_s=60.0)
    assert new is not old
    assert gone(processes)
    assert old.status()["state"] == "stopped"
    assert not gone(others)
    assert registry.all() == [new, other]
    registry.stop_all()
    assert gone(others)


def test_auto_is_replaced_when_the_devices_are_others(registry):
    config = PoolConfig()
    two = registry.get(config, ("cpu", "cpu"), ENTRY)
    assert registry.get(config, ("cuda:0", "cuda:1"), ENTRY) is not two


def test_there_is_one_registry_per_process():
    assert pools() is pools()


def test_the_registry_passes_its_idle_time_on(registry):
    registry.idle_seconds = 0.1
    assert get(registry, "cpu")._idle.seconds == 0.1
