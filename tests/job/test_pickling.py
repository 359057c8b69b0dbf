"""What travels by reference: devices, tensors, patchers and the parts of their models, across the pieces of a job."""

from __future__ import annotations

import importlib.util
import sys
import threading

import comfy.model_management
import comfy.supported_models
import controls
import pytest
import torch
from comfy.quant_ops import QuantizedTensor
from comfy_api.internal import lock_class
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from compact_parallel.runtime.comfy.shipping.import_finders import PathModules
from compact_parallel.runtime.comfy.shipping.patcher import recipe_of
from compact_parallel.runtime.comfy.shipping.pickling import JobPickler, JobUnpickler, Local, PassThrough, ShippingError
from compact_parallel.runtime.pool.local.folder_store import FolderStore
from compact_parallel.runtime.pool.store import INLINE_BYTES
from sampling import model


def travel(tmp_path, *pieces, patcher=None, device="cpu", modules=None):
    """The pieces of a job for `patcher` as a worker on `device` reads them."""
    pickler = JobPickler(FolderStore(tmp_path))
    pickler.patcher_number(patcher or model("flux"))
    for piece in pieces:
        pickler.write(piece, "A piece")
    unpickler = JobUnpickler(
        pickler.stream(), [model("flux")], FolderStore(tmp_path), torch.device(device), modules or PathModules()
    )
    return [unpickler.read() for _ in pieces]


def test_the_workers_device_takes_the_place_of_the_parents(tmp_path):
    given = [torch.device("cuda:0"), torch.device("cpu")]
    assert travel(tmp_path, given, device="cuda:1") == [[torch.device("cuda:1"), torch.device("cpu")]]


def test_pieces_share_their_objects(tmp_path):
    small, large, thing = torch.ones(3), torch.ones(INLINE_BYTES), {"a": 1}
    first, second = travel(tmp_path, [small, large, thing], [large, thing, small])
    assert [id(x) for x in second] == [id(first[1]), id(first[2]), id(first[0])]
    assert torch.equal(first[1], large)


def test_models_and_their_parts_are_the_workers_own(tmp_path):
    patcher = model("flux")
    parts = [patcher, patcher.model, patcher.model.diffusion_model.img_in, patcher.model.latent_format]
    (back,) = travel(tmp_path, parts)
    assert all(x is part for x, part in zip(back, parts))


def test_what_a_patch_replaced_is_a_part_only_if_it_is_a_module(tmp_path):
    patcher = model("flux").clone()
    patcher.object_patches_backup = {"manual_cast_dtype": None, "memory_usage_factor": torch.bfloat16}
    given = [None, torch.bfloat16]
    assert travel(tmp_path, given, patcher=patcher) == [given]


def test_what_belongs_to_the_parent_stays_there(tmp_path):
    one, other = Local(), Local()
    (back,) = travel(tmp_path, [one, other, one])
    assert all(type(placeholder) is PassThrough for placeholder in back)
    assert back[0] is back[2] and back[0] is not back[1]
    assert back[0](lambda x, y: x - y, 3, y=1) == 2


@pytest.fixture
def importable(tmp_path):
    """A module that a worker can import: two functions that share a variable, and one that calls itself."""
    file = tmp_path / "counting.py"
    file.write_text(
        "SEEN = []\n"
        "def counter():\n"
        "    count = 0\n"
        "    def add(step=1):\n"
        "        nonlocal count\n"
        "        count += step\n"
        "        SEEN.append(count)\n"
        "    def value():\n"
        "        return count\n"
        "    def factorial(n):\n"
        "        return n * factorial(n - 1) if n else 1\n"
        "    return add, value, factorial\n"
    )
    spec = importlib.util.spec_from_file_location("counting_fixture", file)
    module = sys.modules["counting_fixture"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["counting_fixture"]


def test_functions_share_their_variables_and_have_the_globals_of_their_module(tmp_path, importable):
    add, value, factorial = importable.counter()
    add(3)
    (theirs,) = travel(tmp_path, {"add": add, "value": value, "factorial": factorial})
    theirs["add"]()
    assert (theirs["value"](), value()) == (4, 3)
    assert importable.SEEN == [3, 4]
    assert theirs["factorial"](5) == 120


def test_the_class_that_the_server_runs_a_node_with_travels(tmp_path):
    at_work = lock_class(DifferentialDiffusion.PREPARE_CLASS_CLONE(None))
    (back,) = travel(tmp_path, {"function": lambda: at_work.forward, "class": at_work})
    assert back["class"].__bases__ == at_work.__bases__ and back["function"]().__self__ is back["class"]
    with pytest.raises(AttributeError, match="locked class"):
        back["class"].hidden = None


def test_a_config_that_answers_none_to_every_name_travels(tmp_path):
    config = comfy.supported_models.SD15({"in_channels": 4})
    config.manual_cast_dtype = torch.float16
    (back,) = travel(tmp_path, config)
    assert type(back) is comfy.supported_models.SD15
    assert back.unet_config == config.unet_config and back.manual_cast_dtype == torch.float16


def test_a_module_travels_without_what_memory_management_hung_on_it(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 2))
    module.dynamic_pins = {"cuda:0": threading.Lock()}
    module.current_patcher = threading.Lock()
    module[0]._v = module[0]._pins = threading.Lock()
    (back,) = travel(tmp_path, module)
    assert not hasattr(back, "dynamic_pins") and not hasattr(back[0], "_v") and back.current_patcher is None
    x = torch.randn(3, 300)
    assert torch.equal(back(x), module(x))
    assert module[0]._v and module.dynamic_pins  # the parent's keeps it


class Scaled(torch.Tensor):
    """Keeps values as any tensor does, and how to read them beside."""


def stored_bytes(directory) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def test_a_tensor_of_a_class_of_its_own_is_stored_and_keeps_its_class_and_attributes(tmp_path):
    tensor = torch.nn.Parameter(torch.randn(300, 300).as_subclass(Scaled), requires_grad=False)
    tensor.scale = 3
    module = torch.nn.Module()
    module.weight = tensor
    (back,) = travel(tmp_path, module)
    assert type(back.weight) is Scaled and back.weight.scale == 3
    assert isinstance(back.weight, torch.nn.Parameter) and dict(back.named_parameters())["weight"] is back.weight
    assert torch.equal(back.weight.as_subclass(torch.Tensor), tensor.as_subclass(torch.Tensor))
    assert stored_bytes(tmp_path) > tensor.numel() * 4


def test_comfyuis_quantised_tensors_travel_through_the_store(tmp_path):
    tensor = QuantizedTensor.from_float(torch.randn(512, 512), "TensorCoreFP8E4M3Layout")
    (back,) = travel(tmp_path, {"weight": tensor})
    assert type(back["weight"]) is QuantizedTensor
    assert torch.equal(back["weight"].dequantize(), tensor.dequantize())
    assert 512 * 512 <= stored_bytes(tmp_path) < 2 * 512 * 512


def test_a_tensor_without_values_travels(tmp_path):
    (back,) = travel(tmp_path, torch.empty((4, 5), dtype=torch.bfloat16, device="meta"))
    assert back.is_meta and back.shape == (4, 5) and back.dtype == torch.bfloat16


def test_the_same_module_gives_the_same_recipe_and_a_changed_one_another(tmp_path):
    patcher, twin = (controls.flux_xlabs().control_model_wrapped for _ in range(2))
    first = recipe_of(patcher, FolderStore(tmp_path))
    assert recipe_of(patcher, FolderStore(tmp_path)).stream == first.stream
    assert recipe_of(twin, FolderStore(tmp_path)).stream == first.stream
    with torch.inference_mode():
        patcher.model.img_in.weight[0, 0] += 1
    assert recipe_of(patcher, FolderStore(tmp_path)).stream != first.stream


def test_a_model_at_rest_gives_the_recipe_that_it_gave_before_it_was_used(tmp_path):
    patcher = controls.unet()
    first = recipe_of(patcher, FolderStore(tmp_path))
    patched = patcher.clone()
    weight = patcher.model.diffusion_model.out[2].weight
    patched.add_patches({"diffusion_model.out.2.weight": (torch.ones_like(weight),)}, 1.0)
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patched])
    assert recipe_of(patched, FolderStore(tmp_path)).stream != first.stream  # with the patch in its weights
    JobPickler(FolderStore(tmp_path)).patcher_number(patched)
    assert recipe_of(patched, FolderStore(tmp_path)).stream == first.stream


def test_a_module_that_holds_another_model_is_refused_by_name(tmp_path):
    patcher = controls.unet()
    patcher.model.other = controls.gligen()
    with pytest.raises(ShippingError, match=r"BaseModel .*holds another model, Gligen"):
        recipe_of(patcher, FolderStore(tmp_path))
