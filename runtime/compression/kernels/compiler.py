"""Whether Triton can compile kernels in this process. A worker tries it once when it starts.

At its first launch Triton builds a piece of C, for which many machines lack the compiler or Python's headers.
"""

from __future__ import annotations

import functools
import subprocess
from importlib import import_module
from importlib.util import find_spec

import torch


class Compiler:
    """Triton's compiler. `refused` says why it cannot be used; empty if it can, or was not tried yet."""

    def __init__(self) -> None:
        self.refused = ""

    def try_on(self, device: torch.device) -> None:
        """Compile and launch one tiny kernel on a CUDA device, and set `refused` if that fails."""
        if find_spec("triton") is None:
            self.refused = "it is not installed"
            return
        try:
            self.refused = import_module(".trial", __package__).fault(device)
        except subprocess.CalledProcessError:
            self.refused = "the C compiler failed"
        except Exception as error:  # from Triton, its compilers, the linker or the driver
            self.refused = str(error).strip().partition("\n")[0] or type(error).__name__

    @property
    def warning(self) -> str:
        """The sentence for the report of a run that compresses; empty if nothing is wrong."""
        return self.refused and (
            f"Triton cannot be used here ({self.refused.rstrip('.')}), so compression runs on PyTorch's operators, "
            "which are slower. Triton needs a C compiler (gcc) and Python's headers (python3-dev)."
        )


@functools.cache
def compiler() -> Compiler:
    """The one `Compiler` of this process."""
    return Compiler()
