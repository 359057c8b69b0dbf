"""The version of the installed ComfyUI."""

from __future__ import annotations

import importlib


def installed() -> str:
    """Its name for people, such as "ComfyUI 0.30.0"."""
    try:
        return f"ComfyUI {importlib.import_module('comfyui_version').__version__}"
    except (ImportError, AttributeError):
        return "this ComfyUI"
