"""What needs neither ranks nor ComfyUI: the plan of a model, and the slots of a batch."""

import pytest
import torch
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.plans import PLANS, plan_for
from compact_parallel.runtime.sharding.shard import batch_slots


def test_slots_follow_comfyui_s_order_of_a_batch():
    assert batch_slots(["p", "n"], 4) == (("p", 0), ("p", 1), ("n", 0), ("n", 1))
    with pytest.raises(ValueError, match="batch of 3 cannot be made of 2"):
        batch_slots(["p", "n"], 3)


def test_a_model_without_a_plan_is_named_with_the_way_out():
    with pytest.raises(Unsupported, match=r"no sequence-parallel plan for Linear; .*cfg_degree 2\) works with every"):
        plan_for(torch.nn.Linear(1, 1))


def test_a_plan_is_for_its_class_and_not_for_a_subclass():
    module, _, name = PLANS[0].models[0].rpartition(".")
    known = type(name, (torch.nn.Module,), {"__module__": module})
    assert plan_for(known()) is PLANS[0]
    with pytest.raises(Unsupported):
        plan_for(type("Other", (known,), {})())
