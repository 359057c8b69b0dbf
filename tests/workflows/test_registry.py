"""What pyproject.toml tells the Comfy registry."""

from __future__ import annotations

import re
import sys

import pytest
from live_server import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it to older Pythons

FILE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, COMFY = FILE["project"], FILE["tool"]["comfy"]


def test_the_project_is_named_and_versioned_as_the_registry_wants():
    assert re.fullmatch(r"[a-z][a-z0-9_-]{0,99}", PROJECT["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"])
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["description"] and len(PROJECT["description"]) <= 200
    assert (ROOT / PROJECT["license"]["file"]).is_file()
    assert Version("3.10") in SpecifierSet(PROJECT["requires-python"])


def test_the_registry_finds_publisher_name_icon_and_comfyui():
    assert COMFY.keys() == {"PublisherId", "DisplayName", "Icon", "requires-comfyui"}
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", COMFY["PublisherId"])
    assert COMFY["DisplayName"] == "CompactParallel"
    assert COMFY["Icon"] == "" or re.fullmatch(r"https://\S+\.(svg|png|jpg|gif)", COMFY["Icon"])
    assert Version("0.30.0") in SpecifierSet(COMFY["requires-comfyui"])
    assert Version("0.18.2") not in SpecifierSet(COMFY["requires-comfyui"])


def test_both_lists_of_dependencies_are_one():
    """ComfyUI-Manager reads requirements.txt, the registry reads pyproject.toml."""
    lines = (ROOT / "requirements.txt").read_text().split("\n")
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert sorted(map(str, wanted)) == sorted(str(Requirement(text)) for text in PROJECT["dependencies"])


def test_the_client_needs_nothing_that_comfyui_does_not():
    """Its imports are of the standard library, of this pack's plain Python, aiohttp and tqdm."""
    allowed = {"aiohttp", "tqdm", *sys.stdlib_module_names}
    for name in ("client", "client_command", "client_overrides"):
        text = (ROOT / "workflows" / f"{name}.py").read_text()
        found = set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.M))
        assert found <= allowed, f"{name} imports {found - allowed}"


@pytest.mark.parametrize("word", ["github.com", "gitlab", "/home/", "localhost"])
def test_no_private_place_is_named(word):
    assert word not in (ROOT / "pyproject.toml").read_text()
