"""Tests of the examples in runtime/README.md: what is shown works once its file exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import live_server
import pytest
import torch
from compact_parallel.nodes.compression import CompactParallelCompression
from compact_parallel.nodes.parallel_model import CompactParallelModel
from compact_parallel.nodes.strategy import CompactParallelStrategy
from compact_parallel.runtime.attention import exchanges
from compact_parallel.runtime.compression import codecs
from compact_parallel.runtime.config import CompressionConfig, ConfigError
from distributed import launch
from new_family import outcome
from residuals import gauss
from sequence_parts import relative_error
from tiny_diffusion import needs_comfyui

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "runtime" / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def shown(mark: str) -> str:
    """The source of the README's example in which `mark` stands."""
    (source,) = [example for example in EXAMPLES if mark in example]
    return source


def test_the_plan_shown_is_the_plan_that_is_used_and_tested():
    assert shown("PLAN = Plan(") == (ROOT / "runtime" / "sharding" / "plans" / "pixart.py").read_text(encoding="utf-8")


@needs_comfyui
def test_the_plan_shown_is_found_and_exact_once_its_file_is_there(tmp_path):
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "runtime" / "sharding" / "plans"
    (folder / "pixart.py").unlink()
    for file, sentence in launch(outcome, 2, tmp_path, tmp_path):  # the negative control
        assert file == "" and sentence.startswith("There is no sequence-parallel plan for PixArtMS: ")
    (folder / "my_family.py").write_text(shown("PLAN = Plan("), encoding="utf-8")
    for file, error in launch(outcome, 2, tmp_path, tmp_path):
        assert file == "my_family" and error < 1e-5


@pytest.fixture
def codec(tmp_path):
    """The README's codec, imported as if its file were in the folder of codecs."""
    file = tmp_path / "half.py"
    file.write_text(shown("CODECS = ("), encoding="utf-8")
    name = "compact_parallel.runtime.compression.codecs.half"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module.CODECS[0]
    del sys.modules[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_codec_shown_keeps_a_codecs_word(codec, dtype):
    residual = gauss(7, 5, 1).to(dtype)
    payload = codec.encode(residual)
    assert payload.dtype == torch.uint8
    assert payload.numel() == codec.nbytes(7, 5)
    decoded = codec.decode(payload, 7, 5, dtype)
    assert decoded.dtype == dtype
    left = (residual.float() - decoded.float()).norm()
    assert left <= 2**-8 * residual.float().norm()
    assert codec.bits(7, 5) == 16


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A server with a copy of this pack to which only the README's files were added."""
    folder = tmp_path_factory.mktemp("readme") / "pack"
    for part in ("runtime", "nodes"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("web", "workflows"):
        (folder / part).symlink_to(ROOT / part, target_is_directory=True)
    shutil.copy(ROOT / "__init__.py", folder)
    (folder / "runtime/compression/codecs/half.py").write_text(shown("CODECS = ("), encoding="utf-8")
    (folder / "runtime/attention/exchanges/in_turns.py").write_text(shown("EXCHANGE = "), encoding="utf-8")
    with live_server.running(tmp_path_factory.mktemp("server"), folder) as talk:
        yield talk


def offered(talk, node, mode, name):
    """The choices of an input of a mode, as the server tells them."""
    told = talk.server.get(f"/object_info/{node}")[node]
    modes = {option["key"]: option["inputs"] for option in told["input"]["optional"]["mode"][1]["options"]}
    return modes[mode]["optional"][name][1]["options"]


def report_of(workflow, outputs):
    return json.loads(outputs[live_server.node(workflow, "Report")]["text"][0])


@pytest.mark.server
def test_the_codec_shown_is_chosen_and_run_once_its_file_is_there(talk):
    workflow = live_server.workflow("tiny")
    compression = workflow[live_server.node(workflow, "Residual Compression")]
    compression["inputs"] = {"warmup_calls": 1, "keep_text_exact": False, "mode": "codec", "mode.codec": "half"}
    _, outputs = talk.run(workflow)
    assert offered(talk, "CompactParallelCompression", "codec", "codec") == [*codecs.OFFERED, "half"]
    report = report_of(workflow, outputs)
    assert report["workers"] == 2 and report["devices"] == ["cpu", "cpu"]
    first, *others = report["codecs_per_call"]
    assert set(first) == {"int8"}  # the warm-up
    assert len(others) == 3
    for call, bits in zip(others, report["bits"][1:]):
        assert set(call) == {"half", "int8"}  # the output's tokens are always sent in 8 bits
        assert bits == pytest.approx((16 * call["half"] + 8.5 * call["int8"]) / sum(call.values()), rel=0.02)
        assert call["half"] > 10 * call["int8"]


def test_without_its_file_the_codec_shown_is_refused():
    """Negative control. real_server/test_refused.py tests that a server refuses it, too."""
    with pytest.raises(ConfigError, match=r"^codec is 'half'; choose one of int8, fp8, 4bit, .*, top_k, 16bit, 2bit"):
        CompactParallelCompression.execute(mode={"mode": "codec", "codec": "half"})
    (config,) = CompactParallelCompression.execute(mode={"mode": "codec", "codec": "top_k"}).args
    assert config.codec == "top_k"


@pytest.mark.server
def test_the_exchange_shown_is_chosen_and_run_once_its_file_is_there(talk):
    latents = {}
    for name in ("all_gather", "in_turns", "displaced"):
        workflow = live_server.workflow("tiny")
        workflow[live_server.node(workflow, "Residual Compression")]["inputs"] = {"mode": "off"}
        workflow[live_server.node(workflow, "Parallel Strategy")]["inputs"]["mode.ring_exchange"] = name
        _, outputs = talk.run(workflow)
        latents[name] = talk.saved_latent(workflow, outputs)
        report = report_of(workflow, outputs)
        assert (report["workers"], report["strategy"]["ring_degree"]) == (2, 2)
        assert report["strategy"]["ring_exchange"] == name
        assert report["bytes_sent"] > 0
    assert offered(talk, "CompactParallelStrategy", "manual", "ring_exchange") == [*exchanges.OFFERED, "in_turns"]
    exact, in_turns, displaced = latents.values()
    assert relative_error(in_turns, exact) < 1e-6
    assert relative_error(displaced, exact) > 1e-3  # the comparison sees an exchange that is not exact


def test_without_its_file_the_exchange_shown_is_refused():
    """Negative control."""
    with pytest.raises(ConfigError, match=r"^ring_exchange is 'in_turns'; choose one of all_gather, ring, displaced"):
        CompactParallelStrategy.execute(mode={"mode": "manual", "ring_exchange": "in_turns"})


def test_a_wrong_codec_is_told_by_parallel_model_before_anything_starts():
    config = CompressionConfig(mode="codec", codec="half")
    with pytest.raises(ConfigError, match=r"^codec is 'half'; choose one of int8, fp8"):
        CompactParallelModel.execute(model=None, compression=config)
