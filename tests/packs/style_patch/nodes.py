"""The pack's nodes."""

from server import PromptServer

from . import options
from .attention import sharpened


class SharpenAttention:
    """Overrides the attention, and damps the output of every other call."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "sharpness": ("FLOAT", {"default": 1.2})}}

    def patch(self, model, sharpness):
        options.OPTIONS["sharpness"] = sharpness
        options.OPTIONS["layers"]["first"] = 0.01
        options.DAMPING = 0.1
        options.SETTINGS.tint = 0.05
        calls = 0

        def override(func, q, k, v, heads, *args, **kwargs):
            return sharpened(func, q, k, v, heads, *args, calls=calls, **kwargs)

        def around_the_model(apply_model, arguments):
            nonlocal calls
            calls += 1
            output = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
            return output * (1.0 - options.DAMPING * (calls % 2)) + options.SETTINGS.tint

        def forget(*_):
            nonlocal calls
            calls = 0

        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
        patched.set_model_unet_function_wrapper(around_the_model)
        patched.add_callback("on_pre_run", forget)
        return (patched,)


class TintByReference:
    """Moves the values of the self-attention towards those of a reference picture."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "reference": ("LATENT",), "strength": ("FLOAT", {"default": 0.5})}}

    def patch(self, model, reference, strength):
        tint = reference["samples"].std(dim=(-2, -1)).mean()
        whole = reference["samples"].expand(8, *reference["samples"].shape[1:]).contiguous()

        front_end = PromptServer.instance

        def attn1_patch(q, k, v, **_):
            front_end.send_sync("fixture_style.tint", {"strength": strength})
            return {"q": q, "k": k, "v": v * (1 - strength) + strength * tint * whole.mean()}

        patched = model.clone()
        patched.set_model_attn1_patch(attn1_patch)
        return (patched,)


class KeepLog:
    """Writes a line per prediction to a file it holds open, which no other process can be given."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "fixtures"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "path": ("STRING", {"default": ""})}}

    def patch(self, model, path):
        log = open(path, "a")  # noqa: SIM115 - as such packs do

        def write(arguments):
            print(float(arguments["sigma"].max()), file=log, flush=True)
            return arguments["denoised"]

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(write)
        return (patched,)
