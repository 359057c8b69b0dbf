"""ComfyUI-CompactParallel: one image or video, sooner, on several devices."""

from .nodes.extension import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
