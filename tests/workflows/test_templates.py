"""tests/bench/templates.py reads ComfyUI's official templates, puts Parallel Model into them and tells what it does."""

from __future__ import annotations

import importlib.util
import zipfile
from collections import Counter

import pytest
from templates_parts import reading, tables
from templates_parts.families import BY_FILE, WITHOUT_PLAN, family_of, split
from templates_parts.placing import PARALLEL_MODEL, model_slot, placed
from templates_parts.reading import Template
from templates_parts.verdicts import API, DIVIDED, NO_SAMPLER, NOT_PLACED, ONE_DEVICE, UNKNOWN_FAMILY, UNKNOWN_NODES
from templates_parts.verdicts import verdict as verdict_of
from templates_tiny.prompts import stock as without_parallel_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("comfyui_workflow_templates_json") is None,
    reason="this ComfyUI's requirements bring no comfyui-workflow-templates-json",
)
SAMPLE = {
    "default": (DIVIDED, "UNet: 2 conditions (CFG 8): CFG x2"),
    "sdxlturbo_example": (DIVIDED, "UNet: 1 condition (CFG 1): rows x2"),
    "image_flux2_text_to_image_9b": (DIVIDED, "Flux: 2 conditions (CFG 5): CFG x2"),
    "templates-6-key-frames": (DIVIDED, "Wan: 1 condition (CFG 1): tokens x2"),
    "video_causal_forcing_i2v": (ONE_DEVICE, "Wan causal: 1 condition (CFG 1), SamplerARVideo cannot be split"),
    "templates_mjm_looped_restyler": (UNKNOWN_NODES, "GetImageSizeAndCount; Wan: 1 condition (CFG 1): tokens x2"),
    "api_veo3": (API, ""),
}
"""In a workflow, in a subgraph, by a guider and by samplers; with nodes that ComfyUI does not have."""


@pytest.fixture(scope="module")
def templates() -> dict[str, Template]:
    return {template.name: template for template in reading.installed().templates()}


def test_every_template_is_read(templates):
    assert len(templates) > 100
    assert not any(name.startswith("index") for name in templates)
    inner = {kind for template in templates.values() for kind in template.types if len(kind) == 36 and "-" in kind}
    assert not inner, "a subgraph counts as what is inside of it"


def test_another_release_is_read_from_its_wheel(tmp_path):
    wheel = tmp_path / "comfyui_workflow_templates_json-9.8.7-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in {"b.json": '{"nodes": []}', "a.app.json": '{"nodes": []}', "index.json": "[]"}.items():
            archive.writestr(f"comfyui_workflow_templates_json/templates/{name}", text)
    release = reading.in_wheel(wheel)
    assert (release.version, [one.name for one in release.templates()]) == ("9.8.7", ["a.app", "b"])


def source(graph: dict, link_id: int) -> int:
    """The node, or -10 for the input of a subgraph, that a link comes from."""
    (found,) = (link for link in graph["links"] if (link["id"] if isinstance(link, dict) else link[0]) == link_id)
    return found["origin_id"] if isinstance(found, dict) else found[1]


def faults(graph: dict) -> set:
    """Links that do not end where their end says so, and ids that are there twice."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    found = set()
    for link in graph["links"]:
        number, origin, slot, target, place, _ = link.values() if isinstance(link, dict) else link
        if origin in nodes and number not in (nodes[origin]["outputs"][slot].get("links") or []):
            found.add(("begins", number))
        if target in nodes and nodes[target]["inputs"][place].get("link") != number:
            found.add(("ends", number))
    ids = Counter(link["id"] if isinstance(link, dict) else link[0] for link in graph["links"])
    return found | {("twice", number) for number, count in (ids + Counter([*nodes])).items() if count > 2}


def test_every_sampler_gets_a_parallel_model_that_is_linked_as_the_front_end_links(templates):
    kinds = Counter()
    for template in templates.values():
        changed = placed(template.graph)
        instances = {subgraph["id"] for subgraph in reading.subgraphs(changed)}
        for before, after in zip(reading.graphs(template.graph), reading.graphs(changed), strict=True):
            nodes = {node["id"]: node for node in after["nodes"]}
            assert len(nodes) == len(after["nodes"]) and faults(after) == faults(before), template.name
            kept = {node["id"]: node for node in before["nodes"]}
            new = nodes.keys() - kept.keys()
            assert {nodes[one]["type"] for one in new} <= {PARALLEL_MODEL}
            for node in before["nodes"]:
                slot = model_slot(node)
                if slot is None or node["inputs"][slot]["link"] is None or node["type"] in instances:
                    assert nodes[node["id"]] == node
                    continue
                between = nodes[source(after, nodes[node["id"]]["inputs"][slot]["link"])]
                assert between["id"] in new and between["mode"] == node["mode"]
                feeds = source(before, node["inputs"][slot]["link"])
                assert source(after, between["inputs"][0]["link"]) == feeds
                kinds[node["type"], before is template.graph, feeds == -10] += 1
            new_links = [link for link in after["links"] if link not in before["links"]]
            assert len(new_links) == 2 * len(new)
    assert {"KSampler", "CFGGuider", "BasicGuider", "SamplerCustom"} <= {kind for kind, *_ in kinds}
    assert {True, False} == {inside for _, inside, _ in kinds} == {at_input for *_, at_input in kinds}


def prompt(file: object, cfg: object, *, sampler: dict | None = None, parallel: bool = True, **more) -> dict:
    """The nodes of a prompt that decide: a loader, a LoRA and a sampler, which is a KSampler by default."""
    nodes = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": file, "weight_dtype": "default"}},
        "2": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "a", "model": ["1", 0]}},
        "3": {"class_type": PARALLEL_MODEL, "inputs": {"model": ["2", 0], "on_unsupported": "error"}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "a house"}},
        "5": {"class_type": "KSampler", "inputs": {"cfg": cfg, "sampler_name": "euler", "negative": ["4", 0]}},
    }
    nodes["5"]["inputs"] |= {"positive": ["4", 0], "model": ["3" if parallel else "2", 0]}
    nodes |= {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in more.items()}
    if sampler is not None:
        nodes["5"] = {"class_type": "SamplerCustomAdvanced", "inputs": sampler}
    return nodes


def verdict(nodes: dict):
    known = {node["class_type"]: {} for node in nodes.values()}
    graph = {"nodes": [{"type": kind} for kind in known]}
    return verdict_of(Template("a template", graph), nodes, known)


BY_GUIDER = {"guider": ["g", 0], "sampler": ["s", 0]}
GUIDED = {"model": ["3", 0], "positive": ["4", 0], "negative": ["4", 0]}
EULER = ("KSamplerSelect", {"sampler_name": "euler"})
CASES = {
    "CFG": (prompt("sd_xl_base_1.0.safetensors", 8.0), DIVIDED, "UNet: 2 conditions (CFG 8): CFG x2"),
    "tokens": (prompt("flux1-dev.safetensors", 1), DIVIDED, "Flux: 1 condition (CFG 1): tokens x2"),
    "CFG of a switch": (
        prompt(
            "wan2.2_t2v_low_noise.safetensors",
            ["w", 0],
            w=("ComfySwitchNode", {"switch": ["b", 0], "on_true": 1.0, "on_false": ["f", 0]}),
            b=("PrimitiveBoolean", {"value": False}),
            f=("PrimitiveFloat", {"value": 3.5}),
        ),
        DIVIDED,
        "Wan: 2 conditions (CFG 3.5): CFG x2",
    ),
    "CFG of a run": (
        prompt("wan2.2_t2v_low_noise.safetensors", ["m", 0], m=("ComfyMathExpression", {"expression": "1"})),
        ONE_DEVICE,
        "Wan: CFGGuider: what it asks for is not known before a run",
    ),
    "CFG that is another field now": (
        prompt("wan2.2_t2v_low_noise.safetensors", "euler"),
        ONE_DEVICE,
        "Wan: CFGGuider: what it asks for is not known before a run",
    ),
    "one prompt": (
        prompt(
            "lotus-depth-d-v1-1.safetensors",
            0,
            sampler=BY_GUIDER,
            g=("BasicGuider", {"model": ["3", 0], "conditioning": ["4", 0]}),
            s=EULER,
        ),
        DIVIDED,
        "UNet: 1 condition (BasicGuider): rows x2",
    ),
    "CFG++": (
        prompt(
            "ltx-2-19b-dev.safetensors",
            0,
            sampler=BY_GUIDER,
            g=("CFGGuider", {**GUIDED, "cfg": 1}),
            s=("KSamplerSelect", {"sampler_name": "euler_cfg_pp"}),
        ),
        DIVIDED,
        "LTX-2: 2 conditions (CFG 1, euler_cfg_pp): CFG x2",
    ),
    "two models": (
        prompt(
            "ideogram4_fp8_scaled.safetensors",
            0,
            sampler=BY_GUIDER,
            g=("DualModelGuider", {**GUIDED, "model_negative": ["1", 0], "cfg": 7}),
            s=EULER,
        ),
        DIVIDED,
        "Ideogram 4: 1 condition (CFG 7): tokens x2",
    ),
    "block by block": (
        prompt(
            "causal_forcing-framewise.safetensors",
            0,
            sampler=BY_GUIDER,
            g=("CFGGuider", {**GUIDED, "cfg": 1}),
            s=("SamplerARVideo", {}),
        ),
        ONE_DEVICE,
        "Wan causal: 1 condition (CFG 1), SamplerARVideo cannot be split",
    ),
    "another model": (prompt("sana_1.6b.safetensors", 4), UNKNOWN_FAMILY, "unknown: model file sana_1.6b.safetensors"),
    "a field that is another one now": (prompt(20, 4), UNKNOWN_FAMILY, "unknown: no loader known"),
    "no Parallel Model": (
        prompt("flux1-dev.safetensors", 1, parallel=False),
        NOT_PLACED,
        "Flux: 1 condition (CFG 1): tokens x2",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_by_the_prompt(case):
    nodes, kind, why = CASES[case]
    found = verdict(nodes)
    assert (found.kind, found.why) == (kind, why)


def test_a_family_without_a_plan_is_divided_by_cfg_alone(monkeypatch):
    monkeypatch.setattr("templates_parts.verdicts.split", lambda family: "")
    assert verdict(prompt("flux1-dev.safetensors", 3)).why == "Flux: 2 conditions (CFG 3): CFG x2"
    alone = verdict(prompt("flux1-dev.safetensors", 1))
    assert (alone.kind, alone.why) == (ONE_DEVICE, "Flux: 1 condition (CFG 1), no plan for the family")


def test_a_file_that_the_prompt_does_not_tell_is_that_of_the_only_family_listed():
    def listing(*files):
        models = [{"name": file, "directory": "diffusion_models"} for file in files]
        vae = {"name": "wan_2.1_vae.safetensors", "directory": "vae"}
        return Template("a template", {"nodes": [{"type": "VAELoader", "properties": {"models": [*models, vae]}}]})

    nodes, known = prompt("euler", 1), {"VAELoader": {}}
    assert verdict_of(listing("krea2.safetensors"), nodes, known).families == ("Krea 2",)
    assert verdict_of(listing("krea2.safetensors", "flux1.safetensors"), nodes, known).kind == UNKNOWN_FAMILY
    assert verdict_of(listing(), nodes, known).kind == UNKNOWN_FAMILY


def test_a_template_without_a_sampler_or_with_nodes_that_comfyui_does_not_have():
    graph = {"nodes": [{"type": "Veo"}, {"type": "MarkdownNote"}]}
    template = Template("a template", graph)
    assert verdict_of(template, {}, {"Veo": {"api_node": True}}).kind == API
    assert verdict_of(template, {}, {"Veo": {}}).kind == NO_SAMPLER
    nodes = {"1": {"inputs": {"model": ["2", 0]}}}  # the front end gives such a node no class
    unknown = verdict_of(template, nodes, {})
    assert (unknown.kind, unknown.why) == (UNKNOWN_NODES, "Veo")
    assert "| a template | nodes not known | Veo |" in tables.text([unknown])


def test_every_family_of_the_table_has_a_plan_or_is_known_to_have_none():
    assert {family for _, family in BY_FILE if not split(family)} == WITHOUT_PLAN
    assert family_of("Flux-2-Klein 9b.safetensors") == "Flux" and family_of("sana.safetensors") is None


@pytest.mark.server
@pytest.mark.parametrize("name", SAMPLE)
def test_the_front_end_makes_a_prompt_of_it(name, templates, front_end):
    if name not in templates:
        pytest.skip(f"{reading.PACKAGE} {reading.installed().version} has no {name}")
    template = templates[name]
    stock, parallel = front_end.prompt(template.graph), front_end.prompt(placed(template.graph))
    assert without_parallel_model(parallel) == stock
    found = verdict_of(template, parallel, front_end.object_info)
    assert (found.kind, found.why) == SAMPLE[name]
    stock_kind = verdict_of(template, stock, front_end.object_info).kind
    assert stock_kind == (NOT_PLACED if found.kind in (DIVIDED, ONE_DEVICE) else found.kind)
