"""A pipeline without weights has the sizes of the real one, so that what it cannot make is refused before loading."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import ConfigError, ParallelConfig, PoolConfig, XditConfig
from compact_parallel.runtime.pipelines.folder import inspect_folder
from compact_parallel.runtime.pipelines.inputs import PipelineInputs
from compact_parallel.runtime.pipelines.job import PipelineChoice
from compact_parallel.runtime.pipelines.outline import check_run, outline
from compact_parallel.runtime.pipelines.planning import describe, plan_pipeline
from compact_parallel.runtime.pipelines.sizes import frame_step, pixel_multiple
from tiny_pipelines import NAMES, build, saved


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_sizes_of_the_real_one(name, shared_tiny_pipelines):
    drawn, real = outline(inspect_folder(saved(name, shared_tiny_pipelines))), build(name)
    assert type(drawn) is type(real)
    assert pixel_multiple(drawn, {}) == pixel_multiple(real, {}) and frame_step(drawn) == frame_step(real)
    weights = [
        weight
        for part in drawn.components.values()
        if isinstance(part, torch.nn.Module)
        for weight in part.parameters()
    ]
    assert weights and {weight.device.type for weight in weights} == {"meta"}


def test_a_pipeline_that_needs_its_other_parts_has_none(shared_tiny_pipelines, monkeypatch):
    facts = inspect_folder(saved("pixart", shared_tiny_pipelines))
    monkeypatch.setattr("compact_parallel.runtime.pipelines.outline.class_of", lambda folder: NeedsItsTokenizer)
    assert outline(facts) is None


class NeedsItsTokenizer:
    def __init__(self, tokenizer, text_encoder, vae, transformer, scheduler):
        self.length = tokenizer.model_max_length


def check(folder, name, engine="diffusers", xdit=None, **inputs):
    choice = PipelineChoice(str(saved(name, folder)), "float32", engine, xdit or XditConfig())
    facts, asked = inspect_folder(saved(name, folder)), PipelineInputs(**inputs)
    config = ParallelConfig(pool=PoolConfig(devices="cpu,cpu"))
    check_run(choice, facts, asked, None, plan_pipeline(choice, config, describe(choice, facts, asked), 2))


@pytest.mark.parametrize(
    ("name", "inputs", "sentence"),
    [
        ("wan", {"frames": 8}, "frames is 8, but WanPipeline makes 1 frame more than multiples of 4; choose 5 or 9."),
        ("latte", {"frames": 5}, "frames is 5, but this LattePipeline was trained for 4; choose 4 or 1."),
        ("flux", {"width": 100}, "width is 100, but FluxPipeline makes multiples of 16; choose 96 or 112."),
        ("flux", {"scheduler": "DDIMScheduler"}, "scheduler is 'DDIMScheduler', which does not fit FluxPipeline"),
        ("wan", {"engine": "xdit"}, "xDiT is not known to run WanPipeline right"),
        ("pixart", {"engine": "xdit", "guidance": 1.0}, "which means no guidance"),
    ],
)
def test_what_the_workers_would_refuse_is_refused(name, inputs, sentence, shared_tiny_pipelines):
    with pytest.raises((ConfigError, Unsupported), match=sentence):
        check(shared_tiny_pipelines, name, prompt="a red cat", **inputs)


def test_what_works_is_not(shared_tiny_pipelines):
    check(shared_tiny_pipelines, "wan", prompt="a red cat", frames=9, width=64, height=64)
    check(shared_tiny_pipelines, "pixart", engine="xdit", prompt="a red cat", guidance=4.0)
