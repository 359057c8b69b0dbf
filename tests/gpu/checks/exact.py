"""Runs the tests of real pools on the card: exactness, cancel, death of workers, parking, Step Reuse, fidelity."""

from collections.abc import Callable

from .suite import suite

FILES = ("job/test_interrupts.py", "job/test_data.py", "job/test_step_reuse.py", "job/test_fidelity.py",
         "job/test_exact.py")  # fmt: skip


def run(tell: Callable) -> None:
    suite(tell, *FILES, processes=4)
