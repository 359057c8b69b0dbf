"""The help page of every node says what the node has, and shows it."""

from __future__ import annotations

import re
import urllib.request

import pytest
from live_server import ROOT
from PIL import Image

DOCS = ROOT / "web" / "docs"
NODES = sorted(path.stem for path in DOCS.glob("*.md"))
MOST_BYTES = 60_000

pytestmark = pytest.mark.server


def page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[str]:
    """The first cells of the table with this heading."""
    found = re.search(rf"^\| {heading} \|.*\n\| --- .*\n((?:\|.*\n?)+)", text, re.M)
    return re.findall(r"^\| ([^|]+?) \|", found[1], re.M) if found else []


def inputs(info: dict) -> list[str]:
    """Every input in order, the inputs of a choice behind it."""
    found = []
    for section in ("required", "optional"):
        for name, (_, options) in info.get(section, {}).items():
            found.append(name)
            for choice in options.get("options", []):
                found += inputs(choice["inputs"]) if isinstance(choice, dict) else []
    return found


def test_every_node_has_a_page(object_info):
    assert sorted(name for name in object_info if name.startswith("CompactParallel")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_inputs_and_outputs_are_the_nodes(object_info, node):
    info = object_info[node]
    assert sorted(table(page(node), "Input")) == sorted(inputs(info["input"]))
    named = [name for name, kind in zip(info["output_name"], info["output"]) if name != kind]
    assert table(page(node), "Output") == named


@pytest.mark.parametrize("node", NODES)
def test_choices_are_explained(object_info, node):
    """Every value of every list stands in the page."""
    for section in object_info[node]["input"].values():
        for name, (kind, options) in section.items():
            choices = kind if isinstance(kind, list) else options.get("options", [])
            if name in ("shape", "colour", "background", "texture", "position", "folder"):
                continue  # they say themselves what they are
            for choice in choices:
                value = choice["key"] if isinstance(choice, dict) else choice
                assert value in page(node), (name, value)


@pytest.mark.parametrize("node", NODES)
def test_it_shows_the_node_and_says_limits_and_ways_out(node):
    text = page(node)
    assert text.startswith("# ") and "**Limits.**" in text and "**If something is wrong.**" in text
    assert f"({node}.webp)" in text
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert 0 < (DOCS / name).stat().st_size < MOST_BYTES or name in ("tiny_model.png",), name
        if not name.endswith(".svg"):
            assert min(Image.open(DOCS / name).size) > 60


@pytest.mark.parametrize("node", NODES)
def test_browsers_get_the_page_and_its_pictures(talk, node):
    for name in (f"{node}.md", f"{node}.webp"):
        with urllib.request.urlopen(f"{talk.server.url}/extensions/ComfyUI-CompactParallel/docs/{name}") as answer:
            assert answer.read() == (DOCS / name).read_bytes()
