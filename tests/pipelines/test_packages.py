"""What is absent or too old is named before anything is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from compact_parallel.runtime.config import ConfigError
from compact_parallel.runtime.pipelines.packages import require_diffusers, require_xfuser

ROOT = Path(__file__).resolve().parents[2]

# Runs in a new interpreter. A package is absent if the folder of its metadata is not found, old if a folder in front of
# the path says so.
SCRIPT = """
import importlib.metadata, sys, types
sys.path[:0] = [sys.argv[1]]
absent = sys.argv[3].split(",")
class Hidden(importlib.metadata.DistributionFinder):
    def find_spec(self, *_): return None
    def find_distributions(self, context):
        for finder in rest:
            if context.name not in absent:
                yield from getattr(finder, "find_distributions", lambda _: ())(context)
rest = list(sys.meta_path)
sys.meta_path[:] = [Hidden(), *(types.SimpleNamespace(find_spec=finder.find_spec) for finder in rest)]
package = types.ModuleType("compact_parallel")
package.__path__ = [sys.argv[2]]
sys.modules["compact_parallel"] = package
from compact_parallel.runtime.pipelines import packages
from compact_parallel.runtime.config import ConfigError
for require in (packages.require_diffusers, packages.require_xfuser):
    try:
        require()
        print("fine")
    except ConfigError as error:
        print(error)
assert not {"diffusers", "xfuser", "accelerate", "google.protobuf", "torch"} & set(sys.modules)
"""


def said(tmp_path, absent=(), old=()):
    """What the two functions say in an interpreter that lacks packages or has old ones (name, version)."""
    for name, version in old:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(ROOT), ",".join(absent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_what_is_installed_here_is_enough(tmp_path):
    require_diffusers()
    require_xfuser()
    assert said(tmp_path) == ["fine", "fine"]


@pytest.mark.parametrize("name", ["diffusers", "accelerate", "protobuf"])
def test_an_absent_package(name, tmp_path):
    for line in said(tmp_path, absent=[name]):
        assert line.startswith(f"{name} is not installed, ")
        assert re.search(rf'-m pip install "{name}>=\d+\.\d+" and start ComfyUI again\.$', line)


def test_xfuser_is_needed_by_xdit_only(tmp_path):
    diffusers, xdit = said(tmp_path, absent=["xfuser"])
    assert diffusers == "fine"
    assert xdit.startswith("xfuser is not installed, ")
    assert '"xfuser>=0.7"' in xdit


def test_old_packages(tmp_path):
    diffusers, xdit = said(tmp_path, old=[("diffusers", "0.41.1"), ("xfuser", "0.6.9")])
    assert diffusers.startswith(
        "diffusers is 0.41.1, older than 0.42, which the pipelines of diffusers cannot work with;"
    )
    assert xdit.startswith("diffusers is 0.41.1, older than 0.42 and xfuser is 0.6.9, older than 0.7, ")


def test_new_packages_and_odd_versions(tmp_path):
    versions = [("diffusers", "0.42.0.dev0"), ("accelerate", "1"), ("xfuser", "1"), ("protobuf", "10.2")]
    assert said(tmp_path, old=versions) == ["fine", "fine"]


def test_xfuser_runs_on_linux_only(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="does not run on win32; use the pipelines of diffusers, or Linux"):
        require_xfuser()


def test_nothing_of_diffusers_is_imported_before_it_is_used():
    """ComfyUI's own process knows a pipeline by its folder and its inputs; it loads diffusers when a node asks."""
    modules = ["component_classes", "folder", "inputs", "loading", "packages", "sizes", "weight_files"]
    script = (
        "import importlib, sys, types; package = types.ModuleType('compact_parallel'); "
        f"package.__path__ = [{str(ROOT)!r}]; sys.modules['compact_parallel'] = package; "
        f"[importlib.import_module('compact_parallel.runtime.pipelines.' + name) for name in {modules!r}]; "
        "print({'diffusers', 'transformers', 'xfuser', 'accelerate'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "set()"
