"""What travels by reference: devices, tensors, patchers and the parts of their models, across the pieces of a job."""

from __future__ import annotations

import torch
from compact_parallel.runtime.job.modules import PathModules
from compact_parallel.runtime.job.pickling import JobPickler, JobUnpickler, Local, pass_through
from compact_parallel.runtime.job.store import INLINE_BYTES
from sampling import model


def travel(tmp_path, *pieces, patcher=None, device="cpu", modules=None):
    """The pieces of a job for `patcher` as a worker on `device` reads them."""
    pickler = JobPickler(tmp_path)
    pickler.patcher_number(patcher or model("flux"))
    for piece in pieces:
        pickler.write(piece, "A piece")
    unpickler = JobUnpickler(
        pickler.stream(), [model("flux")], tmp_path, torch.device(device), modules or PathModules()
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
    assert travel(tmp_path, [Local()]) == [[pass_through]]
