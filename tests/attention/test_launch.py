"""The launcher itself: results by rank, the true traceback of a failing rank, and no hang."""

import os

import pytest
import torch
import torch.distributed as dist
from distributed import RankFailed, launch


def ranks_sum(rank, world, offset):
    total = torch.tensor([rank + offset])
    dist.all_reduce(total)
    return int(total), rank


def one_raises(rank, world):
    if rank == 1:
        raise ValueError("only rank 1 is wrong")
    dist.barrier()


def one_dies(rank, world):
    if rank == 1:
        os._exit(3)


def all_wait_for_ever(rank, world):
    if rank == 0:
        dist.recv(torch.empty(1), src=1)
    else:
        dist.recv(torch.empty(1), src=0)


def test_results_come_back_by_rank(tmp_path):
    assert launch(ranks_sum, 2, tmp_path, 10) == [(21, 0), (21, 1)]


def test_the_rank_that_failed_first_is_named(tmp_path):
    with pytest.raises(RankFailed, match=r"rank 1: .*\n(.*\n)*ValueError: only rank 1 is wrong"):
        launch(one_raises, 2, tmp_path)


def test_a_dead_rank_is_told(tmp_path):
    with pytest.raises(RankFailed, match="rank 1 ended with code 3"):
        launch(one_dies, 2, tmp_path)


def test_a_hang_ends_with_the_timeout(tmp_path):
    with pytest.raises(RankFailed):
        launch(all_wait_for_ever, 2, tmp_path, timeout_s=6)
