"""The Triton kernels against the PyTorch codecs, by the tests that run on the interpreter elsewhere."""

from collections.abc import Callable

from .suite import suite


def run(tell: Callable) -> None:
    suite(tell, "compression/kernels/interpreted.py", processes=8, spread="load")
