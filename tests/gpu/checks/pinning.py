"""Checks whether memory that is mapped from a file can be pinned (cudaHostRegister), as ComfyUI's patcher does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path


def run(tell: Callable) -> None:
    import safetensors.torch
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        safetensors.torch.save_file({f"w{i}": torch.randn(1000, 1001) for i in range(4)}, path)
        mapped = safetensors.torch.load_file(path)
        torch.zeros(1, device="cuda")
        runtime = torch.cuda.cudart()

        def register(x: torch.Tensor) -> str:
            return str(runtime.cudaHostRegister(x.data_ptr(), x.numel() * x.element_size(), 1))

        tell(mapped={name: register(x) for name, x in mapped.items()})
        tell(private=[register(torch.randn(1000, 1001)) for _ in range(2)])
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            tell(safe_open=[register(file.get_tensor(name)) for name in ("w0", "w1")])
