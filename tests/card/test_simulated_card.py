"""The simulated card counts what a real one would do, and refuses what it would refuse."""

from __future__ import annotations

import gc

import pytest
import torch
from simulated_card import CUDA, Mismatch, SimulatedCard


def test_tensors_say_where_they_are_and_compute_there():
    with SimulatedCard() as card:
        x = card.put(torch.arange(6.0)).view(2, 3)
        y = (x @ x.T).relu() + torch.ones(2, 2, device="cuda")
        assert y.device == CUDA and y.is_cuda and x.T.device == CUDA and x[0].device == CUDA
        assert card.waits.total() == 0
        assert torch.equal(card.take(y), torch.tensor([[6.0, 15.0], [15.0, 51.0]]))
        assert x.add_(1) is x and card.take(x)[0, 0] == 1


def test_tensors_of_two_devices_may_not_meet():
    with SimulatedCard() as card:
        x = card.put(torch.ones(3))
        for wrong in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(1)]),
            lambda: torch.ones(3)[x.long()],
        ):
            with pytest.raises(Mismatch):
                wrong()
        with pytest.raises(Mismatch):
            x.numpy()
        assert card.take(x + torch.tensor(2.0))[0] == 3  # a number on the host may


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: bool((x > 0).all()), "__bool__"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "cpu D2H"),
        (lambda x: x.to("cpu"), "to D2H"),
        (lambda x: torch.ones(3).to(x.device), "to H2D"),
        (lambda x: torch.empty(3).copy_(x), "copy_ D2H"),
        (lambda x: x[x > 0], "index by mask"),
        (lambda x: x[torch.tensor([0, 1])], "index from the host"),
        (lambda x: torch.tensor([1.0], device="cuda"), "tensor H2D"),
        (lambda x: torch.cuda.synchronize(), "synchronize"),
    ],
)
def test_what_the_host_waits_for_is_counted(act, what):
    with SimulatedCard() as card:
        x = card.put(torch.ones(3))
        assert card.waits.total() == 0
        act(x)
        assert [name for name, _ in card.waits] == [what] and card.waits.total() == 1


def test_what_the_host_need_not_wait_for_is_not():
    with SimulatedCard() as card:
        x = card.put(torch.ones(3, 4))
        torch.empty(3, 4).copy_(x, non_blocking=True)
        torch.ones(3).to("cuda", non_blocking=True)
        x.view(-1).narrow(0, 1, 4).sum().clamp(min=1)
        x[card.put(torch.tensor([1, 0]))].float().to(torch.float16)
        assert card.waits.total() == 0
        assert card.copied == {"D2H": 48, "H2D": 12}


def test_operations_are_counted_and_views_are_not():
    with SimulatedCard() as card:
        x = card.put(torch.ones(4, 4))
        x.view(16).unflatten(0, (2, 8)).transpose(0, 1)[0]
        assert card.launches.total() == 0
        (x + 1).mul_(2)
        assert card.launches.total() == 2


def test_memory_is_that_of_the_living_tensors_and_has_a_limit():
    with SimulatedCard(limit=1000) as card:
        x = card.put(torch.zeros(100))
        assert card.held == 400 and torch.cuda.mem_get_info() == (600, 1000)
        y = x.view(10, 10)[3:]
        assert card.held == 400  # a view holds nothing more
        z = x + 1
        assert card.held == 800
        with pytest.raises(torch.OutOfMemoryError):
            x + 1
        del z
        gc.collect()
        assert card.held == 400 and card.peak == 800
        del x
        gc.collect()
        assert card.held == 400  # the view lives
        del y
        gc.collect()
        assert card.held == 0


def test_the_time_between_events_is_known_once_somebody_has_waited():
    with SimulatedCard() as card:
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        x = card.put(torch.ones(3)) + 1
        ended.record()
        with pytest.raises(RuntimeError, match="not ready"):
            started.elapsed_time(ended)
        x.sum().item()
        assert started.elapsed_time(ended) >= 0
        ended.synchronize()
        assert card.waits.total() == 2
