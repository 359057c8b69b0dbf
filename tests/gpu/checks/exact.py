"""Real pools of two and more workers on the card: exactness, cancel, death, parking, Step Reuse, fidelity."""

from collections.abc import Callable

from .suite import suite

FILES = ("job/test_interrupts.py", "job/test_data.py", "job/test_step_reuse.py", "job/test_fidelity.py",
         "job/test_exact.py")  # fmt: skip


def run(tell: Callable) -> None:
    suite(tell, *FILES, processes=4)
