"""Modules that only the parent can import by name: custom nodes, under their file paths, with routes at import."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from compact_parallel.runtime.comfy.shipping.custom_nodes import Packs
from compact_parallel.runtime.comfy.shipping.import_finders import idle_server
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, relative_error

PACK = """
import server

from .strength import STRENGTH

@server.PromptServer.instance.routes.get("/fixture_pack")
async def route(request):
    return None

class Damp:
    def __call__(self, args):
        return args["denoised"] * STRENGTH
"""


EXTRA = """
STRENGTH = 0.9

class Damp:
    def __call__(self, args):
        return args["denoised"] * STRENGTH
"""


@pytest.fixture
def pack(tmp_path):
    """A custom node pack of two files, loaded as ComfyUI loads one: named by its path, dots replaced."""
    import server

    if not hasattr(server.PromptServer, "instance"):
        idle_server(server.PromptServer)
    folder = tmp_path / "fixture.pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACK)
    (folder / "strength.py").write_text("STRENGTH = 0.9\n")
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for loaded in [key for key in sys.modules if key.startswith(name)]:
        del sys.modules[loaded]


@pytest.fixture
def extra(tmp_path):
    """A custom node of one file, loaded as ComfyUI loads one: named by its path, dots and all."""
    folder = tmp_path / "ComfyUI-0.30.0"
    folder.mkdir()
    file = folder / "nodes_extra.py"
    file.write_text(EXTRA)
    name = str(folder / "nodes_extra")
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


def patched(pack):
    clone = model("flux").clone()
    clone.set_model_sampler_post_cfg_function(pack.Damp())
    return clone


@pytest.mark.parametrize("kind", ["pack", "extra"])
def test_a_class_of_a_custom_node_works_in_the_workers(kind, request):
    pack = request.getfixturevalue(kind)
    assert pack.__name__ in Packs().modules()
    stock = ksampler(patched(pack), "flux")
    assert relative_error(ksampler(parallel(patched(pack), 2, ring_degree=2), "flux"), stock) < TOLERANCE
    assert relative_error(stock, ksampler(model("flux"), "flux")) > 100 * TOLERANCE


def test_a_custom_node_whose_file_is_gone_is_named(pack, tmp_path):
    (tmp_path / "fixture.pack" / "strength.py").unlink()
    with pytest.raises(JobFailed, match=r"custom node pack fixture\.pack failed.*fixture\.pack/strength\.py.*Bypass"):
        ksampler(parallel(patched(pack), 2, ring_degree=2), "flux")
    fallback = parallel(patched(pack), 2, on_unsupported="run on one device", ring_degree=2)
    assert torch.equal(ksampler(fallback, "flux"), ksampler(patched(pack), "flux"))
    ksampler(parallel(model("flux"), 2, ring_degree=2), "flux")
