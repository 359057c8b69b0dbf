"""Parallel Report in ComfyUI's own executor: the run that its latent came from, or an error; never another run."""

from __future__ import annotations

import json
import types
import uuid

import comfy_extras.nodes_custom_sampler as custom
import comfy_models
import execution
import pytest
from compact_parallel.nodes.report import CompactParallelReport
from compact_parallel.runtime.report.history import runs
from sampling import model, parallel

import nodes as stock

SECOND_OUTPUT = 1


class Choices:
    """What the loaders and Parallel Model of a workflow give, a model without us, and an empty latent."""

    RETURN_TYPES = ("MODEL", "MODEL", "CONDITIONING", "CONDITIONING", "LATENT")
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def choose(self):
        given = comfy_models.conditioning(1), comfy_models.conditioning(2), {"samples": comfy_models.latent("flux")}
        return (parallel(model("flux"), 2, ring_degree=2), model("flux"), *given)


class Expanded:
    """A node that is expanded into a sampler."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "expand"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT",)}}

    def expand(self, seed):
        graph = execution.GraphBuilder()
        choices = graph.node("TestChoices")
        links = {"positive": choices.out(2), "negative": choices.out(3), "latent_image": choices.out(4)}
        sampled = graph.node("KSampler", **KSAMPLER, seed=seed, model=choices.out(0), **links)
        return {"result": (sampled.out(0),), "expand": graph.finalize()}


KSAMPLER = {"steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
EXTRA = {
    "TestChoices": Choices,
    "TestExpanded": Expanded,
    "CompactParallelReport": CompactParallelReport,
    "SamplerCustomAdvanced": custom.SamplerCustomAdvanced,
    "RandomNoise": custom.RandomNoise,
    "CFGGuider": custom.CFGGuider,
    "KSamplerSelect": custom.KSamplerSelect,
    "BasicScheduler": custom.BasicScheduler,
}


def node(kind, **inputs):
    """A node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


def ksampler(seed, latent=("1", 4), model_output=0, **changes):
    """A KSampler behind node 1."""
    links = {"model": ["1", model_output], "positive": ["1", 2], "negative": ["1", 3], "latent_image": list(latent)}
    return node("KSampler", **KSAMPLER | {"seed": seed, **links, **changes})


def upscale(source, scale=2.0):
    """A node that changes the latent of the node `source`."""
    return node("LatentUpscaleBy", samples=[source, 0], upscale_method="bilinear", scale_by=scale)


def advanced(seed):
    """The nodes of a SamplerCustomAdvanced, which is node 2."""
    links = {"noise": ["3", 0], "guider": ["4", 0], "sampler": ["5", 0], "sigmas": ["6", 0], "latent_image": ["1", 4]}
    return {
        "2": node("SamplerCustomAdvanced", **links),
        "3": node("RandomNoise", noise_seed=seed),
        "4": node("CFGGuider", model=["1", 0], positive=["1", 2], negative=["1", 3], cfg=3.0),
        "5": node("KSamplerSelect", sampler_name="euler"),
        "6": node("BasicScheduler", model=["1", 0], scheduler="simple", steps=2, denoise=1.0),
    }


@pytest.fixture
def run(monkeypatch):
    """Executes a prompt; returns its prompt id, and by node what a Parallel Report says: its JSON, or its error."""
    for name, kind in EXTRA.items():
        monkeypatch.setitem(stock.NODE_CLASS_MAPPINGS, name, kind)
    server = types.SimpleNamespace(client_id="test", last_node_id=None, send_sync=lambda *told: None)
    cache = {"ram": 0.0, "ram_inactive": 0.0, "lru": 0}
    executor = execution.PromptExecutor(server, execution.CacheType.CLASSIC, cache)
    reports = []
    execute = CompactParallelReport.execute.__func__

    def execute_and_keep(cls, latent):
        output = execute(cls, latent)
        reports.append(json.loads(output[3]))
        return output

    monkeypatch.setattr(CompactParallelReport, "execute", classmethod(execute_and_keep))

    def execute_prompt(nodes, latent, also=()):
        reports.clear()
        prompt = {"1": node("TestChoices"), **nodes, "9": node("CompactParallelReport", latent=list(latent))}
        prompt_id = uuid.uuid4().hex
        executor.execute(prompt, prompt_id, {"client_id": "test"}, [*also, "9"])
        errors = [told["exception_message"] for event, told in executor.status_messages if event == "execution_error"]
        return prompt_id, reports[0] if reports else errors[0]

    return execute_prompt


def other_run(run):
    """A run of another workflow, of its node 2; the newest one then."""
    _, report = run({"2": ksampler(99)}, ("2", 0))
    assert report["run_id"] == runs().latest()["run_id"]


NOT_SAMPLED = {
    "denoise 0": {"2": ksampler(99, denoise=0.0)},  # a node 2 like that of the other run, but for this
    "denoise 0, changed": {"3": ksampler(99, denoise=0.0), "2": upscale("3")},
    "another model": {"2": ksampler(99, model_output=1)},
    "nothing at all": {"2": upscale("1") | {"inputs": {**upscale("1")["inputs"], "samples": ["1", 4]}}},
}


@pytest.mark.parametrize("case", NOT_SAMPLED)
def test_a_latent_of_no_run_is_an_error_whatever_ran_before(run, case):
    other_run(run)
    _, said = run(NOT_SAMPLED[case], ("2", 0))
    assert "it was not sampled on a pool" in said


def test_a_second_sampler_that_samples_nothing_leaves_the_first_ones_run(run):
    nodes = {"2": ksampler(2), "3": ksampler(3, latent=("2", 0), denoise=0.0)}
    prompt_id, report = run(nodes, ("3", 0))
    assert (report["prompt_id"], report["node"], report["warnings"]) == (prompt_id, "2", [])


CROP = node("LatentCrop", samples=["3", 0], width=64, height=64, x=0, y=0)
BEHIND = {
    "the sampler": ({"2": ksampler(4)}, ("2", 0), ""),
    "its denoised output": (advanced(5), ("2", 1), ""),
    "an expanded node": ({"2": node("TestExpanded", seed=6)}, ("2", 0), ""),
    "two changes": (
        {"2": ksampler(7), "3": upscale("2"), "4": CROP},
        ("4", 0),
        "by Upscale Latent By (node 3), Crop Latent (node 4)",
    ),
    "another sampler": (
        {"2": ksampler(8), "3": ksampler(9, latent=("2", 0), model_output=1, denoise=0.5)},
        ("3", 0),
        "by KSampler (node 3)",
    ),
}


@pytest.mark.parametrize("case", BEHIND)
def test_a_latent_is_traced_back_to_its_run(run, case):
    nodes, latent, changed = BEHIND[case]
    other_run(run)
    prompt_id, report = run(nodes, latent)
    assert report["prompt_id"] == prompt_id
    assert report["warnings"] == ([f"The result was changed after this run, {changed}."] if changed else [])


def test_a_latent_from_comfyuis_cache_has_the_run_that_made_it(run):
    _, report = run({"2": ksampler(11), "3": upscale("2")}, ("3", 0))
    # In the same prompt again, from the cache, and with a newer run beside it that is not behind the report.
    prompt_id, cached = run({"2": ksampler(11), "3": upscale("2", 1.5), "4": ksampler(12)}, ("3", 0), also=["4"])
    assert runs().latest()["prompt_id"] == prompt_id != cached["prompt_id"]
    assert cached["run_id"] == report["run_id"]


def test_a_latent_of_two_runs_is_an_error_that_names_both(run):
    composite = node("LatentComposite", samples_to=["2", 0], samples_from=["3", 0], x=0, y=0, feather=0)
    _, said = run({"2": ksampler(13), "3": ksampler(14), "4": composite}, ("4", 0))
    assert "several parallel runs (node 2, node 3)" in said
