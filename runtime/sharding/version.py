"""Which ComfyUI this is, for sentences about what does not fit it."""

from __future__ import annotations

import importlib


def comfyui() -> str:
    """Its name with its version, where it says which."""
    try:
        return f"ComfyUI {importlib.import_module('comfyui_version').__version__}"
    except (ImportError, AttributeError):
        return "this ComfyUI"
