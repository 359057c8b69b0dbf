"""The name and version of the installed ComfyUI, for messages."""

from __future__ import annotations

import importlib


def installed() -> str:
    """Name and version, such as "ComfyUI 0.30.0"; "this ComfyUI" if the version is unknown."""
    try:
        return f"ComfyUI {importlib.import_module('comfyui_version').__version__}"
    except (ImportError, AttributeError):
        return "this ComfyUI"
