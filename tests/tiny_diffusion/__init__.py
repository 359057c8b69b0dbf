"""ComfyUI's own diffusion modules, tiny and with random weights, and inputs for them. Needs COMFYUI_PATH."""

from . import first, image, patched, relatives, video
from .base import needs_comfyui, randn
from .first import FLUX2, flux, inputs, sd3, wan

__all__ = ["FLUX2", "cases", "flux", "inputs", "needs_comfyui", "randn", "sd3", "wan"]


def cases():
    """{name: (build, keyword arguments of one forward)}; a name begins with the family, up to a comma."""
    return first.cases() | image.cases() | video.cases() | relatives.cases() | patched.cases()
