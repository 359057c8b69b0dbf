"""The pack's nodes."""

import threading

from . import memory


class Drift:
    """Moves every prediction by what it remembers of those before, of all runs."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        def drift(arguments):
            denoised = arguments["denoised"]
            return denoised + memory.remember(float(denoised.mean()))

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(drift)
        return (patched,)


class ForgetDrift:
    """Everything is as at the start."""

    RETURN_TYPES = ("BOOLEAN",)
    FUNCTION = "forget"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def forget(self):
        memory.CALLS, memory.OPTIONS["drift"], memory.MEMORY.total = 0, 0.0, 0.0
        memory.NAMES.clear()
        memory.LOCK = None
        return (True,)


class TellDrift:
    """What is remembered."""

    RETURN_TYPES = ("DICT",)
    FUNCTION = "tell"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def tell(self):
        drift = [memory.OPTIONS["drift"], memory.MEMORY.total]
        return ({"calls": memory.CALLS, "names": list(memory.NAMES), "drift": drift},)


class KeepLock:
    """Keeps from the first call on what cannot leave its process."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        kept = {}

        def keep(arguments):
            kept.setdefault("lock", threading.Lock())
            return arguments["denoised"] * 0.9

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(keep)
        return (patched,)
