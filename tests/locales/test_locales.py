"""Every translation is complete, has nothing stale, and reaches browsers by ComfyUI's own route."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from live_server import ROOT

sys.path.insert(0, str(Path(__file__).resolve().parent))

from english import node_words, ours

LOCALES = ROOT / "web" / "locales"
LANGUAGES = ("zh", "ja")
STATES = {"starting", "idle", "loading", "loaded", "sampling", "finishing", "parked", "stopped", "dead", "failed"}
STRING = r'"((?:[^"\\]|\\.)*)"'
CONSTANTS = ("NAMES", "HINTS", "STARTING", "ENDS", "NO_WORKERS", "LOST", "ABSENT")
HOLE = re.compile(r"\{\w+\}")

pytestmark = pytest.mark.server


def read(language: str, name: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested dict with "a/b/c" keys."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return found


def said() -> set[str]:
    """Every English text that the panel's code hands to t() or plural(), and the server's lines."""
    found = set(STATES)
    for path in (ROOT / "web").glob("*.js"):
        code = re.sub(r'"\s*\+\s*"', "", path.read_text(encoding="utf-8"))
        found |= set(re.findall(r"\bt\(\s*" + STRING, code))
        for condition in re.findall(r"\bplural\([^,()]+(?:\([^()]*\))?[^,()]*,\s*" + STRING + r",\s*" + STRING, code):
            found |= set(condition)
        for name in CONSTANTS:
            for value in re.findall(rf"const {name} =\s*(.*?);\n", code, re.S):
                found |= set(re.findall(STRING, value))
    wording = ast.parse((ROOT / "runtime" / "report" / "wording.py").read_text(encoding="utf-8"))
    names = ("_result", "status", "_silent", "_doing")
    functions = [part for part in wording.body if isinstance(part, ast.FunctionDef) and part.name in names]
    assert len(functions) == len(names)
    for function in functions:
        strings = [part.value for part in ast.walk(function) if isinstance(part, ast.Constant)]
        found |= {text for text in strings if isinstance(text, str) and " " in text} - {ast.get_docstring(function)}
    return found


@pytest.fixture(scope="module")
def object_info(talk):
    return talk.server.get("/object_info")


def test_english_is_whole(object_info):
    """It stands in the nodes themselves."""
    assert len(ours(object_info)) >= 10
    assert all(text.strip() for text in leaves(node_words(object_info)).values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_and_tooltip_is_translated_and_none_is_stale(object_info, language):
    english, translated = leaves(node_words(object_info)), leaves(read(language, "nodeDefs"))
    assert translated.keys() == english.keys()
    assert all(text.strip() for text in translated.values())
    same = {key for key in english if english[key] == translated[key] and not key.endswith("/name")}
    assert same == set(), "not translated"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_setting_is_translated(language):
    code = (ROOT / "web" / "parallel.js").read_text(encoding="utf-8")
    ids = {name.replace(".", "_") for name in re.findall(r'id: "(CompactParallel\.\w+)"', code)}
    assert len(ids) == 2
    settings = read(language, "settings")
    assert settings.keys() == ids and all(words.keys() == {"name", "tooltip"} for words in settings.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_links_and_categories_are_translated(object_info, language):
    main, nodes = read(language, "main"), ours(object_info).values()
    types = {kind for info in nodes for kind in info["output"] if kind.startswith("PARALLEL_")}
    assert main["dataTypes"].keys() == types and len(types) == 5
    assert main["nodeCategories"].keys() == {part for info in nodes for part in info["category"].split("/")}
    assert main["settingsCategories"].keys() == {"Parallel", "Workers"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_message_of_the_panel_is_translated_with_its_values(language):
    words = read(language, "main")["compactParallel"]
    assert words.keys() == said()
    for english, translated in words.items():
        assert sorted(HOLE.findall(translated)) == sorted(HOLE.findall(english)), english


def test_the_search_for_messages_finds_them():
    """Negative control: one of every way to say something."""
    assert {"Stop", "{count} workers", "Starting {count} worker", "Worst error", "Recent runs"} <= said()
    assert {"Preparing the run", "Step {step} of {total}", "{ratio}x less data sent"} <= said()
    assert any(text.startswith("No workers yet. Put") and text.endswith("stay warm.") for text in said())


@pytest.mark.parametrize("route", ["/i18n", "/api/i18n"])
def test_browsers_get_them_where_comfyui_tells_translations(talk, route):
    told = talk.server.get(route)
    for language in LANGUAGES:
        assert told[language]["nodeDefs"].items() >= read(language, "nodeDefs").items()
        assert told[language]["settings"] == read(language, "settings")
        assert told[language]["compactParallel"] == read(language, "main")["compactParallel"]


def test_other_packs_keep_their_translations(talk):
    """The one of the shared server has a locales folder where ComfyUI looks for it."""
    told = talk.server.get("/i18n")["zh"]
    assert told["nodeDefs"]["Other"] == {"display_name": "其他"} and told["g"] == {"x": "y"}
