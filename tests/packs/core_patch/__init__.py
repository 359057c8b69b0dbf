"""Changes ComfyUI itself, as popular packs do: one function when it is imported, one when a node runs."""

import comfy.samplers

_cfg_function = comfy.samplers.cfg_function
_calc_cond_batch = comfy.samplers.calc_cond_batch


def cfg_function(*args, **kwargs):
    """Everything a little stronger."""
    return _cfg_function(*args, **kwargs) * 1.05


def calc_cond_batch(*args, **kwargs):
    """Every prediction a little weaker."""
    return [output * 0.95 for output in _calc_cond_batch(*args, **kwargs)]


def restored():
    """Puts ComfyUI's own back, for the other tests."""
    comfy.samplers.cfg_function = _cfg_function
    comfy.samplers.calc_cond_batch = _calc_cond_batch


class PatchNow:
    """Changes ComfyUI when it runs."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        comfy.samplers.calc_cond_batch = calc_cond_batch
        return (model,)


comfy.samplers.cfg_function = cfg_function
NODE_CLASS_MAPPINGS = {"FixturePatchNow": PatchNow}
