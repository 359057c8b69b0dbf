"""Where things are: ComfyUI (argument or COMFYUI_PATH), this repository's files, and the demo's vocabulary."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
MODEL_FILE = ROOT / "workflows/models/diffusion_models/compact_parallel_tiny.safetensors"
VAE_FILE = ROOT / "workflows/models/vae/compact_parallel_tiny_vae.safetensors"
SHEET_FILE = ROOT / "web/docs/tiny_model.png"


def _load_encoding() -> ModuleType:
    """Loads nodes/demo_encoding.py by path; importing the pack itself would need ComfyUI."""
    spec = importlib.util.spec_from_file_location("demo_encoding", ROOT / "nodes/demo_encoding.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


encoding = _load_encoding()


def use_comfyui(path: str | None, training: bool) -> None:
    """Makes `import comfy` work on the CPU.

    Args:
        path: ComfyUI's folder, or None for the environment variable COMFYUI_PATH.
        training: take the differentiable code paths of ComfyUI's models.
    Raises:
        SystemExit: the folder is not given or not a ComfyUI.
    """
    folder = Path(path or os.environ.get("COMFYUI_PATH", "")).resolve()
    if not (folder / "comfy/ldm/flux/model.py").is_file():
        raise SystemExit("ComfyUI not found: pass --comfyui or set COMFYUI_PATH")
    sys.path.insert(0, str(folder))
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = training
    import comfy.model_management

    comfy.model_management.in_training = training
