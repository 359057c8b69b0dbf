"""What needs neither ranks nor ComfyUI: the plan of a model, and the slots of a batch."""

from dataclasses import replace
from pkgutil import iter_modules
from types import SimpleNamespace

import pytest
import torch
from compact_parallel.runtime.sharding import actions, plans
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.plan import Split, Unsupported
from compact_parallel.runtime.sharding.plans import PLANS, flux, pixeldit, plan_for
from compact_parallel.runtime.sharding.token_sharding import TokenSharding
from tiny_diffusion import of_plans


def test_slots_follow_comfyui_s_order_of_a_batch():
    options = {"uuids": ["p", "n"], "cond_or_uncond": [0, 1]}
    assert batch_slots(options, 4) == (("0 p", 0), ("0 p", 1), ("1 n", 0), ("1 n", 1))
    assert batch_slots({}, 2) == (("0", 0), ("0", 1))
    with pytest.raises(Unsupported, match="3 of the batch entries of 2 conditions at a time; set on_unsupported"):
        batch_slots(options, 3)


def test_conds_that_share_a_uuid_have_slots_of_their_own():
    """ComfyUI copies a cond with an area, uuid and all, for the other prediction."""
    slots = batch_slots({"uuids": ["area", "area"], "cond_or_uncond": [1, 0]}, 2)
    assert len(set(slots)) == 2


def test_every_context_window_has_slots_of_its_own():
    """What the model made of other frames is no base for these."""
    windows = [None, SimpleNamespace(index_list=[0, 1, 2]), SimpleNamespace(index_list=[2, 3, 4])]
    assert len({batch_slots({"uuids": ["p"], "context_window": window}, 1) for window in windows}) == 3


def test_a_model_without_a_plan_is_named_with_what_works():
    with pytest.raises(Unsupported, match=r"no sequence-parallel plan for Linear: .* use cfg_degree 2") as caught:
        plan_for(torch.nn.Linear(1, 1))
    assert all(name in str(caught.value) for name in ("data_degree", "step_degree", "on_unsupported"))


def test_a_plan_is_for_its_class_and_not_for_a_subclass():
    module, _, name = PLANS[0].models[0].rpartition(".")
    known = type(name, (torch.nn.Module,), {"__module__": module})
    assert plan_for(known()) is PLANS[0]
    with pytest.raises(Unsupported):
        plan_for(type("Other", (known,), {})())


def test_a_model_that_lacks_a_module_of_its_plan_is_refused_and_keeps_no_hook():
    """Workers keep the model for the next job."""
    module = torch.nn.Sequential()
    module.double_blocks = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    with pytest.raises(Unsupported, match="no final_layer in the model"), TokenSharding(module, flux.PLAN, None):
        raise AssertionError("not reached")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_every_file_of_plans_has_a_file_of_tiny_models():
    files = {module.name for module in iter_modules(plans.__path__)} - {"guards"}
    assert set(of_plans()) == files
    assert all(hasattr(module, "cases") for module in of_plans().values())


def test_every_action_has_a_handler():
    kinds = {value for value in vars(actions).values() if isinstance(value, type) and issubclass(value, actions.Action)}
    assert set(actions.HANDLERS) == kinds - {actions.Action}


def test_a_class_of_models_has_one_plan():
    other = replace(flux.PLAN, family="Another")
    assert plans.registered([flux.PLAN, flux.PLAN]) == (flux.PLAN,)
    with pytest.raises(ValueError, match=r"^comfy\.ldm\.flux\.model\.Flux has two plans, Flux and Another; remove it"):
        plans.registered([flux.PLAN, other])


def test_the_split_before_the_first_block_is_derived_unless_it_is_stated():
    assert {(split.path, split.arg) for split in flux.PLAN.all_actions if isinstance(split, Split)} == {
        ("double_blocks.first", "txt"),
        ("double_blocks.first", "img"),
    }
    stated = [split.path for split in pixeldit.PLAN.all_actions if isinstance(split, Split)]
    assert sorted(stated) == ["patch_blocks.first", "pixel_blocks.*.attn", "s_embedder"]
