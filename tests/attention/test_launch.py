"""The launcher itself: results by rank, the true traceback of a failing rank, and no hang."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from device import DEVICE
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


def server_and_order(rank, world):
    threads = len(os.listdir(f"/proc/{os.getppid()}/task"))
    return os.getppid(), threads, hash("tokens"), os.environ.get("RANKS_ARE_TOLD")


@pytest.mark.skipif(DEVICE != "cpu", reason="on a card each rank has a server of its own")
def test_ranks_come_from_servers_of_one_thread_that_hash_differently(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKS_ARE_TOLD", "now")
    first, second, third = launch(server_and_order, 3, tmp_path)
    assert first == third != second
    assert first[0] != second[0] and first[2] != second[2]
    assert {outcome[1] for outcome in (first, second)} == {1}
    assert first[3] == "now"


def holds_what_another_launch_left(rank, world):
    found = getattr(torch, "left_by_a_rank", None)
    torch.left_by_a_rank = rank
    return found


def test_a_rank_finds_nothing_of_an_earlier_one(tmp_path):
    assert launch(holds_what_another_launch_left, 2, tmp_path) == [None, None]
    assert launch(holds_what_another_launch_left, 2, tmp_path) == [None, None]


def own_pid(rank, world, folder):
    (folder / str(rank)).write_text(str(os.getpid()))
    dist.barrier()
    signal.pause()


def test_no_rank_outlives_the_call(tmp_path):
    with pytest.raises(RankFailed, match="2 of 2 ranks failed; the first:\nrank 0 ended with code -9"):
        launch(own_pid, 2, tmp_path, tmp_path, timeout_s=2)
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(rank)).read_text()), 0)
