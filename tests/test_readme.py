"""The examples of runtime/README.md are what they say."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from residuals import gauss

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "runtime" / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_plan_shown_is_the_plan_that_is_used_and_tested():
    (shown,) = [example for example in EXAMPLES if "PLAN = Plan(" in example]
    assert shown == (ROOT / "runtime" / "sharding" / "plans" / "pixart.py").read_text(encoding="utf-8")


@pytest.fixture
def codec(tmp_path):
    """The README's codec, as if its file lay in the folder of codecs."""
    (shown,) = [example for example in EXAMPLES if "CODECS = (" in example]
    file = tmp_path / "half.py"
    file.write_text(shown, encoding="utf-8")
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
