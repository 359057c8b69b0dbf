"""tests/bench/templates_run.py runs templates on tiny weights, with and without Parallel Model."""

from __future__ import annotations

import importlib.util
import math

import pytest
import safetensors
import torch
from templates_parts import reading
from templates_parts.placing import PARALLEL_MODEL, placed
from templates_parts.verdicts import DIVIDED, Verdict, verdict
from templates_tiny import prompts
from templates_tiny.running import SAME, Run, difference, running, way
from templates_tiny.tables import Row, predicted, text
from templates_tiny.tiny_weights import KEY
from templates_tiny.weights import remove_files, write_files

SAMPLE = {
    "sdxlturbo_example": "sequence x2",
    "flux_fill_inpaint_example": "sequence x2",
    "sd3.5_large_canny_controlnet_example": "CFG x2",
}
"""A UNet by rows; a patch that keeps what the server ran its node with; a ControlNet."""
OBJECT_INFO = {
    "EmptyLatent": {
        "input": {"required": {"width": ["INT", {"min": 16}], "height": ["INT", {}], "text": ["STRING", {}]}}
    },
    "KSampler": {"input": {"required": {"steps": ["INT", {}]}, "optional": {"end_at_step": ["INT", {}]}}},
    PARALLEL_MODEL: {"input": {}},
    "Primitive": {"input": {"required": {"value": ["INT", {}]}}},
}


def prompt() -> dict:
    """What decides on sizes, steps and the model: two numbers come from primitives."""
    return {
        "1": {"class_type": "EmptyLatent", "inputs": {"width": ["2", 0], "height": 64, "text": "a fox"}},
        "2": {"class_type": "Primitive", "inputs": {"value": 1024}},
        "3": {"class_type": "Primitive", "inputs": {"value": 10}},
        "4": {"class_type": PARALLEL_MODEL, "inputs": {"model": ["9", 0]}},
        "5": {
            "class_type": "KSampler",
            "inputs": {"model": ["4", 0], "steps": 20, "end_at_step": ["3", 0], "seed": 7},
        },
    }


def test_sizes_and_steps_become_small_and_latents_are_saved():
    small = prompts.small(prompt(), OBJECT_INFO)
    assert small["1"]["inputs"] == {"width": 192, "height": 64, "text": "a fox"}
    assert (small["5"]["inputs"]["steps"], small["5"]["inputs"]["end_at_step"]) == (4, 2)
    assert small[prompts.LATENT + "5"]["inputs"]["samples"] == ["5", 0]
    assert small["2"] == prompt()["2"]
    at_least = {"input": {"required": {"width": ["INT", {"min": 256}]}}}
    assert prompts.small(prompt(), OBJECT_INFO | {"EmptyLatent": at_least})["1"]["inputs"]["width"] == 256


def test_a_pool_is_at_every_parallel_model_and_stock_has_none():
    parallel = prompts.parallel(prompt(), "cpu,cpu")
    pool, compression = (parallel["4"]["inputs"][name][0] for name in ("pool", "compression"))
    assert parallel[pool]["inputs"] == {"devices": "cpu,cpu"} and parallel[compression]["inputs"] == {"mode": "off"}
    stock = prompts.stock(prompt())
    assert "4" not in stock and stock["5"]["inputs"]["model"] == ["9", 0]


def test_another_prompt_has_other_texts_or_if_none_another_seed():
    with_text, without = prompt(), prompt()
    del without["1"]
    assert prompts.other(with_text)["1"]["inputs"]["text"] != "a fox"
    assert prompts.other(with_text)["5"] == with_text["5"]
    assert prompts.other(without)["5"]["inputs"]["seed"] == 8


def test_what_was_sent_tells_whether_a_run_was_divided():
    strategy = {"cfg_degree": 1, "ulysses_degree": 1, "ring_degree": 2, "data_degree": 1, "step_degree": 1}
    assert way({"strategy": strategy, "bytes_sent": 12}) == "sequence x2"
    assert way({"strategy": strategy, "bytes_sent": 0}) == SAME


def test_a_difference_is_that_of_the_worst_latent():
    stock = [torch.tensor([2.0, -4.0]), torch.tensor([1.0])]
    assert difference(stock, stock) == 0
    assert difference([torch.tensor([2.0, -3.0]), torch.tensor([1.5])], stock) == 0.5
    assert math.isnan(difference([stock[0], torch.tensor([math.nan])], stock))
    with pytest.raises(ValueError, match="0 and 2 latents"):
        difference([], stock)


@pytest.mark.parametrize(
    ("change", "is_right"),
    [
        ({}, True),
        ({"difference": 2e-5}, False),
        ({"control": 0.0}, False),
        ({"ways": ("CFG x2",)}, False),
        ({"ways": ()}, False),
        ({"samplers": 2}, False),
    ],
)
def test_a_template_is_right_if_equal_and_divided_as_told_and_the_measure_shows_a_change(change, is_right):
    told = Verdict("a template", DIVIDED, ("Flux",), "Flux: 1 condition (CFG 1): tokens x2")
    given = {"samplers": 1, "ways": ("sequence x2",), "told": frozenset(), "difference": 1e-7, "control": 0.1}
    row = Row(told, Run(**given | change, stock_seconds=1.0, parallel_seconds=2.0), "")
    assert row.is_right == is_right
    assert ("| a template | Flux | tokens x2 | " in text([row])) == (not {"ways", "samplers"} & {*change})
    assert f"{int(is_right)} of 1 templates" in text([row])


def test_a_template_that_fails_is_told_with_what_its_node_said():
    row = Row(Verdict("a template", DIVIDED, ("Flux",), ""), None, "KSampler (node 3): no")
    assert not row.is_right and "| a template | Flux | KSampler (node 3): no |" in text([row])


def test_a_file_says_its_sizes_only_where_comfyui_does_not_tell_them(tmp_path):
    def loaded(file):
        nodes = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": file}}}
        told = write_files(nodes, tmp_path)
        with safetensors.safe_open(tmp_path / "models" / "diffusion_models" / file, "pt") as opened:
            return told, KEY in (opened.metadata() or {})

    assert loaded("flux1-dev.safetensors") == (set(), False)
    assert loaded("qwen_image_fp8.safetensors") == ({"QwenImage"}, True)
    remove_files(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(KeyError, match="no tiny sizes for sana"):
        loaded("sana.safetensors")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    with running(tmp_path_factory.mktemp("templates")) as runner:
        yield runner


@pytest.mark.server
@pytest.mark.skipif(
    importlib.util.find_spec("comfyui_workflow_templates_json") is None,
    reason="this ComfyUI's requirements bring no comfyui-workflow-templates-json",
)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_template_gives_what_it_gives_without_parallel_model(name, front_end, runner):
    templates = {template.name: template for template in reading.installed().templates()}
    if name not in templates:
        pytest.skip(f"{reading.PACKAGE} {reading.installed().version} has no {name}")
    made = front_end.prompt(placed(templates[name].graph))
    told = verdict(templates[name], made, front_end.object_info)
    run = runner.run(made)
    assert run.is_equal, run
    assert set(run.ways) == predicted(told) == {SAMPLE[name]}
    assert "1 of 1 templates, of 1 families" in text([Row(told, run, "")])
