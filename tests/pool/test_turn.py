"""Whose turn it is while it is passed on."""

import threading

import pytest
from compact_parallel.runtime.pool.turn import Turn


class Late(threading.Thread):
    """A thread that comes to nothing before it may."""

    may = threading.Event()

    def run(self):
        self.may.wait(10)
        super().run()


class Refused(threading.Thread):
    """A thread that the system does not start."""

    def start(self):
        raise RuntimeError("can't start new thread")


@pytest.fixture
def held():
    turn = Turn()
    turn.acquire()
    return turn


def test_who_has_passed_it_on_does_not_have_it_before_the_thread_begins(held, monkeypatch):
    monkeypatch.setattr(threading, "Thread", Late)
    did = []
    held.pass_to(lambda: did.append(held.depth))
    came_in_between = held.acquire(blocking=False)
    Late.may.set()
    assert not came_in_between
    assert held.acquire(timeout=10)  # the control: it is free afterwards
    assert did == [1]


def test_without_a_thread_to_pass_it_to_it_is_free(held, monkeypatch):
    monkeypatch.setattr(threading, "Thread", Refused)
    held.pass_to(lambda: None)
    assert held.acquire(blocking=False)
