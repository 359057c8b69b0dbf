"""A real ComfyUI server without diffusers, with an old one, and without xfuser: the sentence, and all else works."""

from __future__ import annotations

import json
import os

import live_server
import pytest
from compact_parallel.workflows.client import NodeError
from pipeline_prompts import SEEDS, prompt
from tiny_pipelines import saved

pytestmark = pytest.mark.server
POOL = ""
"""That of the workflow tiny_exact."""

# Every Python of the server runs this first. The file beside it has {package: version, or null if it is not there}.
SITE = """
import importlib.abc, importlib.metadata, json, pathlib, sys, types
def packages():
    return json.loads(pathlib.Path(__file__).with_name("packages.json").read_text())
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if packages().get(name.partition(".")[0], "") is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def from_name(cls, name, original=importlib.metadata.Distribution.from_name.__func__):
    version = packages().get(name, "")
    if version is None:
        raise importlib.metadata.PackageNotFoundError(name)
    return types.SimpleNamespace(version=version) if version else original(cls, name)
sys.meta_path.insert(0, Absent())
importlib.metadata.Distribution.from_name = classmethod(from_name)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


@pytest.fixture(scope="module")
def talk(tmp_path_factory, site):
    """A server of its own, which begins without diffusers and xfuser."""
    (site / "packages.json").write_text(json.dumps({"diffusers": None, "xfuser": None}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
        with live_server.running(tmp_path_factory.mktemp("server")) as talk:
            yield talk


def said(talk, site, packages, made):
    """The sentence on Parallel Pipeline where these packages are absent or old."""
    (site / "packages.json").write_text(json.dumps(packages))
    with pytest.raises(NodeError) as caught:
        talk.run(made)
    assert caught.value.node == "pipe"
    return str(caught.value).partition("): ")[2]


def test_without_diffusers_its_pipelines_are_refused_and_models_run(talk, site, shared_tiny_pipelines):
    saved("flux", shared_tiny_pipelines)
    sentence = said(talk, site, {"diffusers": None, "xfuser": None}, prompt(shared_tiny_pipelines, "flux", pool=POOL))
    assert sentence.startswith("diffusers is not installed, which the pipelines of diffusers cannot work with; run ")
    assert sentence.endswith('-m pip install "diffusers>=0.42" and start ComfyUI again.')
    assert talk.pools() == []
    talk.run(live_server.workflow("tiny_exact", KSampler__seed=next(SEEDS)))
    assert talk.server.get("/parallel/runs/latest")["workers"] == 2
    assert "Traceback" not in talk.server.log.read_text().partition("diffusers is not installed")[0]


def test_an_old_diffusers_is_refused(talk, site, shared_tiny_pipelines):
    sentence = said(talk, site, {"diffusers": "0.41.0"}, prompt(shared_tiny_pipelines, "flux", pool=POOL))
    assert sentence.startswith("diffusers is 0.41.0, older than 0.42, which the pipelines of diffusers cannot work")


@pytest.mark.parametrize(("xfuser", "words"), [(None, "xfuser is not installed"), ("0.6.9", "xfuser is 0.6.9, older")])
def test_xdit_needs_xfuser(talk, site, shared_tiny_pipelines, xfuser, words):
    made = prompt(shared_tiny_pipelines, "flux", pool=POOL, way={"engine": "xdit"})
    sentence = said(talk, site, {"xfuser": xfuser}, made)
    assert sentence.startswith(words) and "the pipelines of xDiT cannot work with" in sentence


def test_diffusers_alone_needs_no_xfuser(talk, site, shared_tiny_pipelines):
    """Negative control of the tests before: the same server runs the pipeline once diffusers is there."""
    (site / "packages.json").write_text(json.dumps({"xfuser": None}))
    talk.run(prompt(shared_tiny_pipelines, "flux", pool=POOL))
    assert talk.server.get("/parallel/runs/latest")["model"] == "FluxPipeline"
