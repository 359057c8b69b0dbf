"""ComfyUI-CompactParallel: one image or video, sooner, on several devices."""

from .runtime.comfy.fits import against
from .runtime.comfy.seam import NODES

if misfit := against(NODES):
    raise ImportError(misfit.sentence)

from .nodes.extension import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
