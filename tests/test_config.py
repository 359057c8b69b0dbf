"""Tests of runtime/config.py: wrong values raise a sentence that names the input, the value and the way out."""

import dataclasses
import json
import re

import pytest
from compact_parallel.runtime.config import (
    CompressionConfig,
    ConfigError,
    ParallelConfig,
    PoolConfig,
    StrategyConfig,
    parse_devices,
)


@pytest.mark.parametrize(
    ("text", "cuda_count", "devices"),
    [
        ("cpu", 2, ("cpu",)),
        ("cpu,cpu", 0, ("cpu", "cpu")),
        ("cpu*4", 0, ("cpu",) * 4),
        ("cuda:0*2", 1, ("cuda:0", "cuda:0")),
        ("cuda:1, cuda:0", 2, ("cuda:1", "cuda:0")),
        ("cuda:0*2,cpu", 1, ("cuda:0", "cuda:0", "cpu")),
    ],
)
def test_devices(text, cuda_count, devices):
    assert parse_devices(text, cuda_count) == devices
    assert PoolConfig(devices=text).worker_devices(cuda_count, auto=("elsewhere",)) == devices


@pytest.mark.parametrize("text", ["auto", " auto "])
def test_auto_is_what_the_machine_has(text):
    assert PoolConfig(devices=text).worker_devices(2, auto=("cuda:1",)) == ("cuda:1",)


NONSENSE = ["gpu", "cuda", "cuda:", "cuda:x", "cpu*", "cpu*two", "cpu 2", "cpu,", "cuda:0;cuda:1", "auto*2"]


@pytest.mark.parametrize("text", NONSENSE)
def test_a_word_that_is_no_device(text):
    with pytest.raises(ConfigError, match=r"devices: '.*' is not a device; write auto, cpu, cuda:0 or cpu\*4"):
        PoolConfig(devices=text)


def test_no_worker_at_all():
    with pytest.raises(ConfigError, match=r"'cpu\*0' asks for no worker"):
        PoolConfig(devices="cpu*0")
    with pytest.raises(ConfigError, match="devices is empty; write auto"):
        PoolConfig(devices=" ")


def test_a_cuda_device_that_is_not_there():
    config = PoolConfig(devices="cuda:0,cuda:3")
    assert config.worker_devices(4, auto=()) == ("cuda:0", "cuda:3")
    with pytest.raises(ConfigError, match=r"devices: cuda:3 does not exist \(1 CUDA device found\); use auto"):
        config.worker_devices(1, auto=())


@pytest.mark.parametrize(
    ("backend", "devices", "has_nccl", "chosen"),
    [
        ("auto", ("cuda:0", "cuda:1"), True, "nccl"),
        ("auto", ("cuda:0", "cuda:1"), False, "gloo"),
        ("auto", ("cuda:0", "cuda:0"), True, "gloo"),
        ("auto", ("cpu", "cpu"), True, "gloo"),
        ("gloo", ("cuda:0", "cuda:1"), True, "gloo"),
        ("nccl", ("cuda:0", "cuda:1"), True, "nccl"),
    ],
)
def test_backend(backend, devices, has_nccl, chosen):
    assert PoolConfig(backend=backend).resolve_backend(devices, has_nccl) == chosen


def test_nccl_that_pytorch_lacks():
    with pytest.raises(ConfigError, match=r"backend is nccl but this PyTorch was built without it.*use gloo or auto"):
        PoolConfig(backend="nccl").resolve_backend(("cuda:0", "cuda:1"), has_nccl=False)


@pytest.mark.parametrize("devices", [("cpu", "cpu"), ("cuda:0", "cpu"), ("cuda:0", "cuda:0")])
def test_nccl_needs_a_cuda_device_for_every_worker(devices):
    with pytest.raises(ConfigError, match=f"backend is nccl but devices are {','.join(devices)};.*use gloo or auto"):
        PoolConfig(backend="nccl").resolve_backend(devices, has_nccl=True)


def test_degrees_must_multiply_to_the_workers():
    strategy = StrategyConfig(mode="manual", cfg_degree=2, ulysses_degree=1, ring_degree=3)
    strategy.check_world(6)
    with pytest.raises(ConfigError) as caught:
        strategy.check_world(4)
    sentence = str(caught.value)
    assert re.search(r"multiply to 6 .* has 4 workers", sentence)
    for degree in ("cfg_degree 2", "ulysses_degree 1", "ring_degree 3"):
        assert degree in sentence


@pytest.mark.parametrize("name", ["cfg_degree", "ulysses_degree", "ring_degree"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_degree_is_at_least_1(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must be at least 1"):
        StrategyConfig(**{name: value})


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (PoolConfig, "backend", "mpi"),
        (PoolConfig, "start_timeout_s", 0),
        (StrategyConfig, "mode", "magic"),
        (StrategyConfig, "weights", "shard"),
        (CompressionConfig, "predictor", "oracle"),
        (CompressionConfig, "mode", "half"),
        (CompressionConfig, "ratio", 1.0),
        (CompressionConfig, "max_relative_error", 0.0),
        (CompressionConfig, "rank", 0),
        (CompressionConfig, "warmup_calls", 0),
        (CompressionConfig, "base_memory_gb", -1.0),
        (ParallelConfig, "on_unsupported", "hope"),
    ],
)
def test_a_wrong_value_names_the_input_and_the_value(config, field, value):
    with pytest.raises(ConfigError) as caught:
        config(**{field: value})
    assert field in str(caught.value)
    assert str(value) in str(caught.value)


FULL = ParallelConfig(
    pool=PoolConfig(devices="cpu*3", backend="gloo", name="studio", start_timeout_s=30.0),
    strategy=StrategyConfig(mode="manual", cfg_degree=1, ulysses_degree=3, ring_degree=1, ring_exchange="ring"),
    compression=CompressionConfig("previous", warmup_calls=2, keep_text_exact=True, mode="codec", codec="int8"),
    on_unsupported="run on one device",
)


def test_json_round_trip():
    again = ParallelConfig.from_json(json.loads(json.dumps(FULL.to_json())))
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert ParallelConfig.from_json(ParallelConfig().to_json()) == ParallelConfig() != FULL


@pytest.mark.parametrize("part", [FULL.pool, FULL.strategy, FULL.compression])
def test_each_part_has_a_json_form(part):
    assert type(part).from_json(json.loads(json.dumps(part.to_json()))) == part
    assert type(part).from_json({}) == type(part)()


@pytest.mark.parametrize("config", [PoolConfig, StrategyConfig, CompressionConfig])
def test_an_unknown_field_is_named_with_those_there_are(config):
    with pytest.raises(ConfigError, match=f"{config.title} has no input colour, zest; it has ") as caught:
        config.from_json({"zest": 1, "colour": "red"})
    for field in dataclasses.fields(config):
        assert field.name in str(caught.value)


def test_a_wrong_value_in_json_is_refused_like_any_other():
    with pytest.raises(ConfigError, match="ring_degree is 0"):
        StrategyConfig.from_json({"ring_degree": 0})


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.pool.name = "other"
