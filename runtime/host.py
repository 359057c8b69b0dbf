"""The name and version of an installed library, for messages."""

from __future__ import annotations

import importlib


def installed(name: str = "ComfyUI", module: str = "comfyui_version") -> str:
    """Name and version, such as "ComfyUI 0.30.0"; "this ComfyUI" if `module`, which tells the version, does not."""
    try:
        return f"{name} {importlib.import_module(module).__version__}"
    except (ImportError, AttributeError):
        return f"this {name}"
