"""Models with code of a workflow's own in them, split over real processes, against the same evaluation in one."""

from dataclasses import replace

import comfy.ops
import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding import hooks
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.modified_modules import modified_modules
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from compact_parallel.runtime.sharding.plans import plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes
from tiny_diffusion import cases as all_cases
from tiny_diffusion import modified_modules as workflows
from tiny_diffusion import needs_comfyui, unet
from tiny_diffusion.changes import after
from tiny_diffusion.flux import flux

pytestmark = needs_comfyui
LIMIT = 1e-5
NO_BLOCK = {"flux, last layer", "flux, first layer", "flux, around the blocks", "unet, time"}
RIGHT_ANYWAY = {"flux, first layer", "flux, around the blocks", "unet, time", "unet, a layer, and smaller maps"}
"""What runs where nothing is split."""


def error_of(module, degrees, given, whole):
    """The relative error, infinite where it cannot run; and the warnings."""
    ledger = Ledger()
    attention = SequenceAttention(*degrees, "all_gather", RawWire(), ledger)
    sharding = split_over_ranks(module, attention)
    slots = batch_slots({"uuids": ["first", "second"]}, len(given["x"]))
    try:
        error = difference(evaluate_split(sharding, slots, **given), whole)
    except (Unsupported, RuntimeError):
        error = float("inf")
    return error, ledger.to_json()["warnings"]


@torch.inference_mode()
def errors_of_changes(rank, world, kind):
    """{case: (relative error, what the change does, error where nobody sees the change, warnings)}."""
    degrees, found = axes(rank, 1, world), {}
    for name, (build, change, given) in getattr(workflows, kind)().items():
        plain = build()(**given)
        module = build()
        change(module)
        whole = module(**given)
        error, warnings = error_of(module, degrees, given, whole)
        looks, hooks.modified_modules = hooks.modified_modules, lambda *_: ()
        unseen, _ = error_of(module, degrees, given, whole)
        hooks.modified_modules = looks
        found[name] = error, difference(plain, whole), unseen, warnings
    return found


@pytest.mark.parametrize("kind", ["tokens", "rows"])
@pytest.mark.parametrize("world", [2, 3])
def test_what_is_changed_runs_whole(tmp_path, world, kind):
    outcomes = launch(errors_of_changes, world, tmp_path, kind, timeout_s=600)
    for found in outcomes:
        assert {name: error for name, (error, *_) in found.items() if not error < LIMIT} == {}
        assert {name: change for name, (_, change, *_) in found.items() if not change > 100 * LIMIT} == {}
        assert {name for name, (*_, warnings) in found.items() if not warnings} == NO_BLOCK & found.keys()
    unseen = {name: max(found[name][2] for found in outcomes) for name in outcomes[0]}
    assert {name for name, error in unseen.items() if not error > 100 * LIMIT} == RIGHT_ANYWAY & unseen.keys()


def test_comfyui_s_own_code_is_not_taken_for_another_s():
    for build, _ in (
        unet.cases() | {name: case for name, case in all_cases().items() if not name.endswith("changed")}
    ).values():
        assert not list(modified_modules(build()))


def test_a_forward_that_a_pack_puts_on_a_class_is_seen(monkeypatch):
    module = flux()
    block = type(module.double_blocks[0])
    monkeypatch.setattr(block, "forward", lambda self, *args, **kwargs: None)
    assert list(modified_modules(module)) == ["double_blocks.0", "double_blocks.1"]


def test_layers_that_hold_their_weights_in_another_way_are_no_change():
    class Quantised(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x)

    module = flux()
    module.double_blocks[0].img_mlp[0] = layer = Quantised(4, 4)
    assert not list(modified_modules(module))
    layer.forward = layer.forward  # as ComfyUI leaves it when it takes a LoRA off again that acts beside the weights
    assert not list(modified_modules(module))


def test_a_function_that_a_pack_puts_on_a_class_is_seen(monkeypatch):
    module = flux()
    monkeypatch.setattr(type(module), "forward_orig", lambda self, *args, **kwargs: None)
    assert list(modified_modules(module)) == [""]


@pytest.mark.parametrize("decorate", (torch.no_grad(), torch.inference_mode(), torch.compiler.disable, torch.compile))
def test_a_decorator_of_torch_does_not_hide_a_pack_s_code(decorate):
    module = flux()
    block = module.double_blocks[1]
    block.forward = decorate(block.forward)
    assert not list(modified_modules(module))
    block.forward = decorate(lambda *args, **kwargs: None)
    assert list(modified_modules(module)) == ["double_blocks.1"]


def test_layers_of_a_loader_that_come_from_comfyui_s_are_no_change():
    class Quantised(comfy.ops.manual_cast.Conv2d):  # as ComfyUI-GGUF has them
        def forward_comfy_cast_weights(self, x):
            return super().forward_comfy_cast_weights(x)

    class Another(comfy.ops.manual_cast.Conv2d):
        def forward(self, x):
            return super().forward(x).flip(2)

    module = unet.unet()
    path, layer = next((path, each) for path, each in module.named_modules() if isinstance(each, torch.nn.Conv2d))
    for kind, seen in ((Quantised, []), (Another, [path])):
        layer.__class__ = kind
        assert list(modified_modules(module)) == seen


@torch.inference_mode()
def refusals(rank, world):
    """The sentences for changes where nothing can be given all of the picture."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    block, forward = flux(), unet.unet()
    after("double_blocks.0")(block)
    forward.forward = lambda *args, **kwargs: None
    found = {}
    for sharding in (
        TokenSharding(block, replace(plan_for(block), blocks=()), attention),
        split_over_ranks(forward, attention),
    ):
        with pytest.raises(Unsupported) as refusal, sharding:
            raise AssertionError("not reached")
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in sharding.module.modules())
        found[sharding.plan.family] = str(refusal.value)
    return found


def test_what_is_refused(tmp_path):
    for found in launch(refusals, 2, tmp_path):
        for family, path in (("Flux", "double_blocks.0"), ("UNet", "forward")):
            code = f"code of the workflow's own in place of the model's ({path}); set on_unsupported"
            assert found[family].startswith(f"{family} cannot be split over ranks with {code}")
