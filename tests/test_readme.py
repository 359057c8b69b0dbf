"""Tests of the examples in runtime/README.md: the plan is the one in use, and the codec works once its file exists."""

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
from compact_parallel.runtime.compression.codecs import OFFERED
from compact_parallel.runtime.config import CompressionConfig, ConfigError
from residuals import gauss

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "runtime" / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_plan_shown_is_the_plan_that_is_used_and_tested():
    (shown,) = [example for example in EXAMPLES if "PLAN = Plan(" in example]
    assert shown == (ROOT / "runtime" / "sharding" / "plans" / "pixart.py").read_text(encoding="utf-8")


def codec_shown() -> str:
    """The source of the README's codec."""
    (shown,) = [example for example in EXAMPLES if "CODECS = (" in example]
    return shown


@pytest.fixture
def codec(tmp_path):
    """The README's codec, imported as if its file were in the folder of codecs."""
    file = tmp_path / "half.py"
    file.write_text(codec_shown(), encoding="utf-8")
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


@pytest.fixture
def pack(tmp_path):
    """A copy of this pack in which only the README's file was added."""
    folder = tmp_path / "pack"
    for part in ("runtime", "nodes"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("web", "workflows"):
        (folder / part).symlink_to(ROOT / part, target_is_directory=True)
    shutil.copy(ROOT / "__init__.py", folder)
    (folder / "runtime/compression/codecs/half.py").write_text(codec_shown(), encoding="utf-8")
    return folder


@pytest.mark.server
def test_the_codec_shown_is_chosen_and_run_once_its_file_is_there(pack, tmp_path):
    workflow = live_server.workflow("tiny")
    compression = workflow[live_server.node(workflow, "Residual Compression")]
    compression["inputs"] = {"warmup_calls": 1, "keep_text_exact": False, "mode": "codec", "mode.codec": "half"}
    (tmp_path / "server").mkdir()
    with live_server.running(tmp_path / "server", pack) as talk:
        _, outputs = talk.run(workflow)
        node = talk.server.get("/object_info/CompactParallelCompression")["CompactParallelCompression"]
    modes = {option["key"]: option["inputs"] for option in node["input"]["optional"]["mode"][1]["options"]}
    assert modes["codec"]["optional"]["codec"][1]["options"] == [*OFFERED, "half"]
    report = json.loads(outputs[live_server.node(workflow, "Report")]["text"][0])
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


def test_a_wrong_codec_is_told_by_parallel_model_before_anything_starts():
    config = CompressionConfig(mode="codec", codec="half")
    with pytest.raises(ConfigError, match=r"^codec is 'half'; choose one of int8, fp8"):
        CompactParallelModel.execute(model=None, compression=config)
