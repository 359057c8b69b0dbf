"""Whose code a function is, here and behind a pickler, whatever it says of itself."""

from __future__ import annotations

import functools
import sys
import types

import cloudpickle
import comfy.ldm.flux.layers
import comfy.samplers
import pytest
import torch
from comfy.k_diffusion.sampling import sample_euler
from compact_parallel.runtime.comfy.describe.code_owners import is_of_comfyui, is_of_this_pack
from compact_parallel.runtime.comfy.describe.customisations import scan_call
from compact_parallel.runtime.comfy.shipping.pickling import JobPickler, JobUnpickler
from compact_parallel.runtime.parallel.step.samplers import LINE, SERIAL, kind_of_function
from compact_parallel.runtime.pool.local.folder_store import FolderStore
from compact_parallel.runtime.sharding.modified_modules import modified_modules
from compact_parallel.runtime.sharding.origin import home_of, is_class_of, is_function_of
from sampling import model
from tiny_diffusion import needs_comfyui
from tiny_diffusion.flux import flux

pytestmark = needs_comfyui
cloudpickle.register_pickle_by_value(sys.modules[__name__])
BLOCK = comfy.ldm.flux.layers.DoubleStreamBlock


@functools.wraps(sample_euler)
def around_euler(*args, **kwargs):
    """A pack's sampler that bears the name of ComfyUI's."""
    return sample_euler(*args, **kwargs) + 1


@functools.wraps(BLOCK.forward)
def around_a_block(self, *args, **kwargs):
    """A pack's forward that bears the name of ComfyUI's."""
    return BLOCK.forward(self, *args, **kwargs)


def there_and_back(function, tmp_path):
    """The function as a worker gets it."""
    pickler = JobPickler(FolderStore(tmp_path))
    pickler.write(function, "the function")
    return JobUnpickler(pickler.stream(), [], FolderStore(tmp_path), torch.device("cpu"), None).read()


def test_comfyui_s_functions_are_its_own_here_and_there(tmp_path):
    for function in (sample_euler, BLOCK.forward, torch.nn.Linear.forward):
        assert is_function_of(("comfy", "torch"), function)
        assert is_function_of(("comfy", "torch"), there_and_back(function, tmp_path))
    assert kind_of_function(there_and_back(sample_euler, tmp_path), {}).way == LINE


@pytest.mark.parametrize("function", (around_euler, around_a_block, lambda: None), ids=("sampler", "block", "lambda"))
def test_another_s_function_is_not_whatever_name_it_bears(function, tmp_path):
    travelled = there_and_back(function, tmp_path)
    assert travelled is not function and travelled.__module__ == function.__module__
    for each in (function, travelled, cloudpickle.loads(cloudpickle.dumps(function))):
        assert not is_function_of(("comfy", "torch"), each)
    assert home_of(function) is sys.modules[__name__] and home_of(travelled) is None


def test_a_sampler_that_bears_another_s_name_is_not_known():
    assert kind_of_function(around_euler, {}).way == SERIAL
    assert (around_euler.__module__, around_euler.__qualname__) == (sample_euler.__module__, sample_euler.__qualname__)


def test_a_forward_that_bears_the_name_of_the_one_it_replaces_is_seen(monkeypatch):
    module = flux()
    assert not list(modified_modules(module))
    monkeypatch.setattr(BLOCK, "forward", around_a_block)
    assert list(modified_modules(module)) == ["double_blocks.0", "double_blocks.1"]


def test_a_class_is_known_where_it_is_found():
    class Block(BLOCK):
        pass

    claims = type("DoubleStreamBlock", (BLOCK,), {"__module__": BLOCK.__module__})
    claims.__qualname__ = "DoubleStreamBlock"
    assert is_class_of(("comfy",), BLOCK)
    assert not is_class_of(("comfy",), Block) and not is_class_of(("comfy",), claims)


def around_by(function):
    """What is on a model around whose calls this function is put."""
    patcher = model("flux").clone()
    patcher.set_model_unet_function_wrapper(function)
    return scan_call(patcher, {})


def test_a_pack_in_a_folder_called_comfy_is_not_comfyui():
    pack = types.ModuleType("/home/someone/comfy/ComfyUI/custom_nodes/pack")
    pack.__file__ = f"{pack.__name__}/__init__.py"
    sys.modules[pack.__name__] = pack
    try:
        exec("def around(apply_model, given):\n    return apply_model(given)", vars(pack))
        assert around_by(pack.around).may_change_the_model
    finally:
        del sys.modules[pack.__name__]
    assert not around_by(comfy.samplers.sampling_function).may_change_the_model


@pytest.mark.parametrize("thing", (None, 1, "text", (1, 2), {}))
def test_what_has_no_code_is_nobody_s(thing):
    assert not is_of_this_pack(thing) and not is_of_comfyui(thing) and not is_function_of(("comfy",), thing)
