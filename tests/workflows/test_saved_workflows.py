"""The workflows of version 0.1.0, as people have saved them, still load and run with today's nodes.

saved_0_1_0/ has the UI form of every workflow, and its API form in saved_0_1_0/api/. They are never changed.
"""

from __future__ import annotations

import copy
import itertools
import json
from functools import partial
from pathlib import Path

import pytest
from authoring.graph import active_inputs
from checking import FILE_CHOICES, complaints, to_api, with_defaults
from compact_parallel.workflows.client import NodeError
from live_server import node
from PIL import Image

pytestmark = pytest.mark.server
SAVED = Path(__file__).with_name("saved_0_1_0")
NAMES = sorted(path.stem for path in SAVED.glob("*.json"))
TINY = [name for name in NAMES if name.startswith("tiny")]
REAL = [name for name in NAMES if name not in TINY]
SEEDS = itertools.count(7000)
ADDED = ["BOOLEAN", {"default": False}]


def graph(name: str) -> dict:
    return json.loads((SAVED / f"{name}.json").read_text())


def prompt(name: str) -> dict:
    return json.loads((SAVED / "api" / f"{name}.json").read_text())


def problems(name: str, object_info: dict) -> list[str]:
    """All that is wrong with one saved workflow, in both forms, with nodes that have these inputs."""
    asked = prompt(name)
    found = complaints(asked, object_info)
    try:
        opened = to_api(graph(name), object_info, older=True)
    except AssertionError as error:
        return [*found, str(error)]
    found += complaints(opened, object_info)
    if found:
        return found
    for one in graph(name)["nodes"]:
        if one["type"].startswith("CompactParallel"):
            found += [f"{one['id']} {one['type']}: {text}" for text in moved(one, opened, object_info)]
    for number, one in with_defaults(asked, object_info).items():
        got = with_defaults(opened, object_info)[number]["inputs"]
        found += [
            f"{number} {one['class_type']}.{key}: the UI form has {got.get(key)!r}, the API form {value!r}"
            for key, value in one["inputs"].items()
            if got.get(key) != value
        ]
    return found


def moved(saved: dict, opened: dict, object_info: dict) -> list[str]:
    """Inputs of a node in UI form that today's node does not have, or not in the same order."""
    now = list(active_inputs(object_info[saved["type"]]["input"], opened[str(saved["id"])]["inputs"]))
    kinds = {True: [one.name for one in now if one.is_widget], False: [one.name for one in now if not one.is_widget]}
    texts = []
    for is_widget, names in kinds.items():
        before = [one["name"] for one in saved["inputs"] if ("widget" in one) == is_widget]
        if names[: len(before)] != before:
            texts.append(f"its inputs were {', '.join(before)}; now they are {', '.join(names)}")
    return texts


def test_every_workflow_is_there_in_both_forms():
    assert len(NAMES) == 15 and len(TINY) == 5
    assert sorted(path.stem for path in (SAVED / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_with_todays_nodes(object_info, name):
    assert problems(name, object_info) == []


def ours(object_info: dict) -> dict:
    """The nodes of this pack that some saved workflow has."""
    used = {one["class_type"] for name in NAMES for one in prompt(name).values()}
    return {kind: object_info[kind] for kind in sorted(used) if kind.startswith("CompactParallel")}


def inputs_of(kind: str) -> set[str]:
    """The inputs that nodes of this kind had when they were saved."""
    nodes = [one for name in NAMES for one in graph(name)["nodes"] if one["type"] == kind]
    return {one["name"] for node in nodes for one in node["inputs"]}


def with_inputs(object_info: dict, kind: str, change) -> dict:
    """The descriptions of the nodes with one node's inputs changed by `change(items of a section)`."""
    sections = {section: dict(change(list(items.items()))) for section, items in object_info[kind]["input"].items()}
    return with_sections(object_info, kind, **sections)


def with_sections(object_info: dict, kind: str, **sections: dict) -> dict:
    """The descriptions of the nodes with other "required" or "optional" inputs of one of them."""
    return {**object_info, kind: {**object_info[kind], "input": {**object_info[kind]["input"], **sections}}}


def noticed(object_info: dict) -> bool:
    """Whether any saved workflow would not load as it was saved."""
    return any(problems(name, object_info) for name in sorted(NAMES, key=lambda name: name not in TINY))


def without(name: str, items: list[tuple]) -> list[tuple]:
    return [item for item in items if item[0] != name]


def in_order(names: dict[str, str], items: list[tuple]) -> list[tuple]:
    """The items with other names; where two change names, they change places."""
    given = dict(items)
    return [(names.get(name, name), given.get(names.get(name, name), spec)) for name, spec in items]


def test_what_would_break_them_is_noticed(object_info):
    """Negative control: each saved input of each of our nodes is removed, renamed or changes places with the next."""
    missed = []
    for kind, info in ours(object_info).items():
        sections = (info["input"].get(section, {}) for section in ("required", "optional"))
        names = [name for section in sections for name in section if name in inputs_of(kind)]
        changes = {f"{name} is gone": partial(without, name) for name in names}
        changes |= {f"{name} has another name": partial(in_order, {name: f"{name}_"}) for name in names}
        fields = [one.name for one in active_inputs(info["input"], {}) if one.is_widget and one.name in names]
        for kept_in_order in (fields, [name for name in names if name not in fields]):
            pairs = itertools.pairwise(kept_in_order)
            changes |= {f"{a} and {b} change places": partial(in_order, {a: b, b: a}) for a, b in pairs}
        missed += [
            (kind, what) for what, change in changes.items() if not noticed(with_inputs(object_info, kind, change))
        ]
    assert missed == []


def test_a_choice_that_is_gone_is_noticed(object_info):
    """Negative control."""
    other = copy.deepcopy(object_info)
    mode = other["CompactParallelCompression"]["input"]["optional"]["mode"][1]
    mode["options"] = [option for option in mode["options"] if option["key"] != "codec"]
    assert any("mode: 'codec' is none of" in problem for problem in problems("tiny", other))


def test_an_optional_input_that_comes_last_costs_nothing(object_info):
    """The control of the controls: this is how inputs may be added."""
    added, required = object_info, object_info
    for kind, info in ours(object_info).items():
        sections = info["input"]
        if not any(is_dynamic(spec) for spec in sections.get("optional", {}).values()):
            added = with_sections(added, kind, optional={**sections.get("optional", {}), "added": ADDED})
        required = with_sections(required, kind, required={**sections.get("required", {}), "added": ADDED})
    assert not noticed(added)
    assert noticed(required)


def is_dynamic(spec: list) -> bool:
    """Whether it is a DynamicCombo, whose own inputs come behind it: nothing may be added there."""
    return spec[0] == "COMFY_DYNAMICCOMBO_V3"


@pytest.mark.parametrize("name", REAL)
def test_the_server_takes_it_and_looks_for_its_files(talk, name):
    """With files of these names the server accepts the workflow, and fails only when it opens them."""
    models = [model for one in graph(name)["nodes"] for model in one.get("properties", {}).get("models", [])]
    assert models
    for model in models:
        place = talk.folder / "models" / model["directory"] / model["name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (talk.folder / "input").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "teal").save(talk.folder / "input" / "example.png")
    with pytest.raises(NodeError) as caught:
        talk.run(prompt(name))
    assert caught.value.node_type in FILE_CHOICES


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TINY)
def test_the_tiny_one_runs(talk, name):
    asked = prompt(name)
    asked[node(asked, "Empty Latent")]["inputs"].update(width=256, height=240)
    seed = next(SEEDS)
    for one in asked.values():
        if one["class_type"] == "KSampler":
            one["inputs"]["steps"] = 9 if name == "tiny_step_reuse" else 2
            if not isinstance(one["inputs"]["seed"], list):
                one["inputs"]["seed"] = seed
        elif one["class_type"] == "PrimitiveInt":
            one["inputs"]["value"] = seed
    _, outputs = talk.run(asked)
    pictures = [image for number in outputs for image in outputs[number].get("images", ())]
    assert pictures
    if name in ("tiny", "tiny_exact", "tiny_step_reuse"):
        report = json.loads(outputs[node(asked, "Report")]["text"][0])
        assert report["workers"] == 2 and report["fallbacks"] == []
