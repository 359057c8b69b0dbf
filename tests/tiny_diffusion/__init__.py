"""ComfyUI's own diffusion modules, tiny and with random weights, and inputs for them. Needs COMFYUI_PATH."""

from . import changed, first, guided, image, image_more, patched, recent, recent_video, relatives, video
from .base import needs_comfyui, randn
from .first import FLUX2, flux, inputs, sd3, wan

__all__ = ["FLUX2", "cases", "flux", "inputs", "needs_comfyui", "randn", "sd3", "wan"]


def cases():
    """{name: (build, keyword arguments of one forward)}; a name begins with the family, up to a comma."""
    found = {}
    for each in (first, image, video, relatives, patched, guided, image_more, recent, recent_video, changed):
        found |= each.cases()
    return found
