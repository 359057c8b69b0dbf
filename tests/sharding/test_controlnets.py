"""ControlNets that share their work: every residual, of one evaluation over real processes, against that in one."""

import pytest
import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_control
from distributed import launch
from sequence_parts import axes
from tiny_diffusion import controlnets, needs_comfyui
from torch.utils.flop_counter import FlopCounterMode

pytestmark = needs_comfyui
OPTIONS = {"uuids": ["first", "second"]}
LIMIT = 1e-5
WHOLE = 1  # the residual of a UNet's that is whole on every rank, behind that of the middle


class OwnChunkOnly(SequenceAttention):
    """The negative control: no K or V from anybody else."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        return func(q, k, v, heads, **kwargs | {"mask": None})


def residuals(module, given):
    """Every residual, and the floating point operations of all but the hint's own layers, which are not split."""
    with FlopCounterMode(display=False) as counter:
        out = module(**given)
    counts = counter.get_flop_counts()
    hint = sum(sum(ops.values()) for name, ops in counts.items() if name.endswith(".input_hint_block"))
    return [x for place in out.values() for x in place if x is not None], counter.get_total_flops() - hint


def split_residuals(module, given, attention, keeps_local=False):
    """As `residuals`, of the module that is split."""
    from compact_parallel.runtime.comfy.wrappers.controlnets import attention_through  # needs ComfyUI

    with split_control(module, attention) as sharding, attention_through(sharding):
        sharding.keeps_local = keeps_local
        sharding.begin_forward(batch_slots(OPTIONS, 2))
        return residuals(module, given)


def largest(found, expected):
    assert [x.shape for x in found] == [x.shape for x in expected]
    return max(float((x - y).norm() / y.norm()) for x, y in zip(found, expected))


def summed(own):
    """The residuals of which every rank has its own part, from all of them."""
    for x in {id(x): x for x in own}.values():
        torch.distributed.all_reduce(x)
    return own


@torch.inference_mode()
def errors_of_cases(rank, world, ways):
    """{(case, way): error}, {case: the error without an exchange}, {case: share of the work}, {case: bytes sent}."""
    by_degrees = {way: axes(rank, *way) for way in ways}
    errors, control, shares, sent = {}, {}, {}, {}
    for name, (build, given) in controlnets.cases().items():
        module = build()
        whole, work = residuals(module, given)
        for way in ways:
            for keeps_local in (False, True):
                ledger = Ledger()
                attention = SequenceAttention(*by_degrees[way], "all_gather", RawWire(), ledger)
                split, own = split_residuals(module, given, attention, keeps_local)
                sent[name, keeps_local] = ledger.totals()[0]
                places = [n for n in range(len(whole)) if not (keeps_local and name.startswith("unet") and n == WHOLE)]
                split = [split[n] for n in places]
                found = summed(split) if keeps_local else split
                errors[name, way, keeps_local] = largest(found, [whole[n] for n in places])
            shares[name] = own / work
        alone = OwnChunkOnly(*by_degrees[ways[0]], "all_gather", RawWire(), Ledger())
        control[name] = largest(split_residuals(module, given, alone)[0], whole)
        assert largest(residuals(module, given)[0], whole) == 0  # nothing stayed on the module
    return errors, control, shares, sent


@pytest.mark.parametrize("ways", ([(1, 2), (2, 1)], [(1, 3)]), ids=("2 ranks", "3 ranks"))
def test_split_equals_whole_and_is_less_work(tmp_path, ways):
    world = ways[0][0] * ways[0][1]
    outcomes = launch(errors_of_cases, world, tmp_path, ways, timeout_s=300)
    for errors, control, _, sent in outcomes:
        assert set(control) == set(controlnets.cases())
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: error for case, error in control.items() if not error > 100 * LIMIT} == {}
        assert all(sent[case, True] < sent[case, False] for case in control)
    work = {case: sum(shares[case] for _, _, shares, _ in outcomes) for case in controlnets.cases()}
    assert {case: share for case, share in work.items() if not share < 1.4} == {}  # of that of one device
