"""Tests the Triton kernels against the PyTorch codecs on the card, with the tests that else use the interpreter."""

from collections.abc import Callable

from .suite import suite


def run(tell: Callable) -> None:
    suite(tell, "compression/kernels/interpreted.py", processes=8, spread="load")
