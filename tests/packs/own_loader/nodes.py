"""The loader."""

import comfy.model_base
import comfy.model_management

from .model import Config, OwnPatcher, TinyDenoiser


class LoadTinyDenoiser:
    """Makes the model from a seed."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        widths = {"width": ("INT", {"default": 512}), "text_width": ("INT", {"default": 48})}
        return {"required": {**widths, "seed": ("INT", {"default": 0})}}

    def load(self, width, text_width, seed):
        config = Config({"width": width, "text_width": text_width, "seed": seed})
        model = comfy.model_base.BaseModel(config, unet_model=TinyDenoiser)
        device = comfy.model_management.get_torch_device()
        patcher = OwnPatcher(model, device, comfy.model_management.unet_offload_device())
        patcher.unpack_on_device = True
        return (patcher,)
