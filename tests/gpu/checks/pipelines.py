"""Runs the tests of pipelines on pools of two and four workers, and of their replays, on the card."""

from __future__ import annotations

from collections.abc import Callable

from .suite import suite


def run(tell: Callable) -> None:
    suite(tell, "pipelines/test_pool.py")
