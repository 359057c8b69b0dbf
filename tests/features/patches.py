"""What workflows do to a model: every feature as a change of a scene, done by ComfyUI's own nodes where it has them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import comfy_extras.nodes_apg as apg
import comfy_extras.nodes_attention_multiply as attention_multiply
import comfy_extras.nodes_cfg as cfg
import comfy_extras.nodes_context_windows as context_windows
import comfy_extras.nodes_differential_diffusion as differential
import comfy_extras.nodes_easycache as caches
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_mahiro as mahiro
import comfy_extras.nodes_model_advanced as advanced
import comfy_extras.nodes_model_downscale as downscale
import comfy_extras.nodes_nag as nag
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_perpneg as perpneg
import comfy_extras.nodes_sag as sag
import comfy_extras.nodes_slg as slg
import comfy_extras.nodes_tomesd as tomesd
import controls
import torch
from comfy.patcher_extension import PatcherInjection
from comfy_api.internal import make_locked_method_func
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_controlnet import SetUnionControlNetType
from features import loras
from features.loras import seeded
from features.scenes import Scene, conditioning, content, replace, scene, shape_of

import nodes as stock

Feature = Callable[[str], Scene]


def _mask(family: str, dim: int = 1) -> torch.Tensor:
    """(1, H, W), one over the first half of the rows (`dim` 1) or columns (2)."""
    size = shape_of(family)[-2:]
    mask = torch.zeros((1, *size))
    mask.narrow(dim, 0, size[dim - 1] // 2).fill_(1)
    return mask


def inpainting(family: str) -> Scene:
    """A latent with content and a noise mask."""
    plain = scene(family)
    return replace(plain, latent={"samples": content(family), "noise_mask": _mask(family)})


def differential_diffusion(family: str) -> Scene:
    """Inpainting whose mask grows with the steps."""
    masked = inpainting(family)
    soft = torch.linspace(0, 1, masked.latent["noise_mask"].shape[1])[None, :, None].expand_as(_mask(family))
    node = differential.DifferentialDiffusion
    run = make_locked_method_func(node, "execute", node.PREPARE_CLASS_CLONE(None))  # as the server, for it keeps `cls`
    patched = run(model=masked.model)[0]
    return replace(masked, model=patched, latent=masked.latent | {"noise_mask": soft.contiguous()})


def inpaint_model(family: str) -> Scene:
    """A model that takes the picture and the mask as further channels."""
    plain = scene("sd_inpaint")
    about = {"concat_latent_image": content("sd_inpaint"), "concat_mask": _mask("sd_inpaint")[None]}
    given = {
        name: [[text, extras | about] for text, extras in getattr(plain, name)] for name in ("positive", "negative")
    }
    return replace(plain, **given)


def _with_second(plain: Scene, second: list) -> Scene:
    return replace(plain, positive=stock.ConditioningCombine().combine(plain.positive, second)[0])


def area(family: str) -> Scene:
    """A second prompt for a part of the picture (Set Area)."""
    part = stock.ConditioningSetArea().append(conditioning(family, 4), 64, 64, 0, 0, 1.0)[0]
    return _with_second(scene(family), part)


def mask(family: str) -> Scene:
    """A second prompt under a mask (Set Mask)."""
    part = stock.ConditioningSetMask().append(conditioning(family, 4), _mask(family), "default", 1.0)[0]
    return _with_second(scene(family), part)


def timestep_ranges(family: str) -> Scene:
    """One prompt for the first steps, another for the rest."""
    plain = scene(family)
    first = stock.ConditioningSetTimestepRange().set_range(plain.positive, 0.0, 0.4)[0]
    return _with_second(
        replace(plain, positive=first),
        stock.ConditioningSetTimestepRange().set_range(conditioning(family, 4), 0.4, 1.0)[0],
    )


def regional_prompts(family: str) -> Scene:
    """Two prompts under a mask each, in ranges of steps, over inpainting."""
    masked = inpainting(family)
    parts = [
        stock.ConditioningSetMask().append(conditioning(family, seed), made, "default", 1.0)[0]
        for seed, made in ((1, _mask(family, 2)), (4, 1 - _mask(family, 2)))
    ]
    late = stock.ConditioningSetTimestepRange().set_range(parts[1], 0.3, 1.0)[0]
    return _with_second(replace(masked, positive=parts[0]), late)


def _controlled(plain: Scene, *given, vae=None) -> Scene:
    positive, negative = controls.steered(*given, positive=plain.positive, negative=plain.negative, vae=vae)
    return replace(plain, positive=positive, negative=negative)


@functools.cache
def _control(kind: str, seed: int):
    return getattr(controls, kind)(seed)


def controlnet(family: str) -> Scene:
    """A ControlNet for a part of the steps."""
    kind = "flux_xlabs" if family == "flux" else "unet_controlnet"
    return _controlled(scene(family), (_control(kind, 3), 0.8, 0.1, 0.9))


def controlnets(family: str) -> Scene:
    """Two ControlNets in turn, one upon the other in between."""
    kind = "flux_xlabs" if family == "flux" else "unet_controlnet"
    return _controlled(scene(family), (_control(kind, 3), 0.5, 0.4, 1.0), (_control(kind, 11), 1.0, 0.0, 0.6))


def union(family: str) -> Scene:
    """A union ControlNet that sees latents."""
    told = SetUnionControlNetType.execute(_control("flux_union", 4), controls.UNION_TYPE)[0]
    return _controlled(scene("flux"), (told, 1.0, 0.0, 1.0), vae=controls.pixel_vae())


def control_lora(family: str) -> Scene:
    """A ControlLora."""
    return _controlled(scene("sd"), (_control("unet_control_lora", 6), 1.0, 0.0, 1.0))


def t2i_adapter(family: str) -> Scene:
    """A T2I adapter."""
    return _controlled(scene("sd"), (_control("t2i_adapter", 7), 1.0, 0.0, 1.0))


def gligen(family: str) -> Scene:
    """A text box."""
    plain = scene("sd")
    box = ("position", controls.gligen(), [(torch.randn((1, 48), generator=seeded(2)), 6, 6, 0, 0)])
    return replace(plain, positive=[[text, extras | {"gligen": box}] for text, extras in plain.positive])


def _on_model(change: Callable, **changes) -> Feature:
    """The plain scene with its model as `change` gives it."""

    def feature(family: str) -> Scene:
        plain = scene(family)
        return replace(plain, model=change(plain.model), **changes)

    return feature


def _node(kind, **values) -> Callable:
    def change(patcher):
        made = kind.execute(patcher, **values) if hasattr(kind, "execute") else kind().patch(patcher, **values)
        return made[0]

    return change


def _patched(put: Callable) -> Callable:
    def change(patcher):
        clone = patcher.clone()
        put(clone)
        return clone

    return change


def own_attention(func, q, k, v, heads, *args, **kwargs):
    """An attention override of another pack: sharper attention."""
    return func(q * 1.3, k, v, heads, *args, **kwargs)


def reweighted(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """attn1_patch of the transformers: queries by those of all tokens."""
    return {"q": q * 1.2 + q.mean(2, keepdim=True) - q.roll(1, 2) / 5, "k": k, "v": v, "pe": pe, "attn_mask": attn_mask}


def with_reference(q, k, v, pe=None, attn_mask=None, extra_options=None):
    """attn1_patch of the transformers: keys and values beside those of the picture."""
    k, v = (torch.cat([x, x[:, :, -5:-1] * 0.5], dim=2) for x in (k, v))
    return {"k": k, "v": v, "pe": torch.cat([pe, pe[:, :, 3:7]], dim=2)}


def scaled_queries(q, k, v, extra_options=None, **kwargs):
    """attn1_patch or attn2_patch of the UNets."""
    return q * 1.2, k, v


def also_a_reference(n, context, value, extra_options=None):
    """attn2_replace like IP-Adapter's: attends to more than the text."""
    from comfy.ldm.modules.attention import optimized_attention

    out = optimized_attention(n, context, value, extra_options["n_heads"])
    picture = torch.ones_like(context[:, :3]) * 0.1
    return out + 0.5 * optimized_attention(n, picture, picture, extra_options["n_heads"])


def perp_neg(family: str) -> Scene:
    """PerpNegGuider."""

    def guider(patcher, positive, negative, scale):
        return perpneg.PerpNegGuider.execute(patcher, positive, negative, conditioning(family, 8), scale, 1.0)[0]

    return replace(scene(family), guider=guider)


def windows(family: str) -> Scene:
    """Context windows over a video."""
    plain = scene("wan")
    patched = context_windows.ContextWindowsManualNode.execute(
        plain.model, 5, 2, "standard_static", 1, False, "pyramid", 2, False
    )[0]
    return replace(plain, model=patched, latent={"samples": torch.zeros(1, 16, 9, 6, 6)})


def references(family: str) -> Scene:
    """Two reference latents (Kontext, Edit)."""
    plain = scene(family)
    latents = [content(family)[..., :8, :8], content(family)[..., 4:10, :6]]
    return replace(plain, positive=[[text, extras | {"reference_latents": latents}] for text, extras in plain.positive])


def batch(family: str) -> Scene:
    """Three pictures, of which each has noise of its own."""
    return scene(family, 3)


def added_noise(family: str) -> Scene:
    """A sampler that adds noise."""
    return replace(scene(family), sampler="dpmpp_2m_sde")


def _override(clone) -> None:
    clone.model_options["transformer_options"]["optimized_attention_override"] = own_attention


def _of_all(forward: Callable) -> Callable:
    """A block that looks at all of the picture."""

    def changed(*args, **kwargs):
        out = forward(*args, **kwargs)
        first = out[0] if isinstance(out, tuple) else out
        first = first + first.mean(1, keepdim=True)
        return (first, *out[1:]) if isinstance(out, tuple) else first

    return changed


def _block(patcher):
    """Its path, and the module."""
    path = "double_blocks.0" if hasattr(patcher.model.diffusion_model, "double_blocks") else "middle_block.0"
    return path, patcher.model.diffusion_model.get_submodule(path)


def inject(patcher) -> None:
    """As motion modules come into a model for a run; once, as ComfyUI may leave another patcher's in place."""
    _, block = _block(patcher)
    block.forward = _of_all(functools.partial(type(block).forward, block))
    block.forward.owner = id(patcher)


def eject(patcher) -> None:
    """And leave it; clones of a patcher, which ComfyUI ejects when they are collected, have put nothing there."""
    _, block = _block(patcher)
    if getattr(block.forward, "owner", None) == id(patcher):
        del block.forward


def _injected(clone) -> None:
    clone.set_injections("motion", [PatcherInjection(inject=inject, eject=eject)])


def _object_patched(clone) -> None:
    path, block = _block(clone)
    clone.add_object_patch(f"diffusion_model.{path}.forward", _of_all(block.forward))


def louder(apply_model, given):
    """A function around the model, as caches of other packs are."""
    return 1.05 * apply_model(given["input"], given["timestep"], **given["c"])


COMMON: dict[str, Feature] = {
    "LoRA, two": loras.lora,
    "LoHa, LoKr, GLoRA, OFT, BOFT and full weights": loras.adapters,
    "LoRA on a prompt (hook)": loras.lora_on_a_prompt,
    "LoRA on a prompt, scheduled": loras.lora_on_a_schedule,
    "Model merge": loras.merged,
    "Model sampling (shift)": _on_model(_node(advanced.ModelSamplingAuraFlow, shift=3.0)),
    "Batch": batch,
    "A sampler that adds noise": added_noise,
    "Inpainting (noise mask)": inpainting,
    "Differential diffusion": differential_diffusion,
    "Set Area": area,
    "Set Mask": mask,
    "Ranges of steps": timestep_ranges,
    "Regional prompts over inpainting": regional_prompts,
    "ControlNet": controlnet,
    "ControlNets, two in turn": controlnets,
    "RescaleCFG": _on_model(_node(advanced.RescaleCFG, multiplier=0.7)),
    "APG": _on_model(_node(apg.APG, eta=1.0, norm_threshold=5.0, momentum=0.5)),
    "CFGZeroStar": _on_model(_node(cfg.CFGZeroStar)),
    "Mahiro": _on_model(_node(mahiro.Mahiro)),
    "PerpNeg (guider)": perp_neg,
    "NAG": _on_model(_node(nag.NAGuidance, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)),
    "EasyCache": _on_model(
        _node(caches.EasyCacheNode, reuse_threshold=0.5, start_percent=0.1, end_percent=0.95, verbose=False)
    ),
    "LazyCache": _on_model(
        _node(caches.LazyCacheNode, reuse_threshold=0.5, start_percent=0.1, end_percent=0.95, verbose=False)
    ),
    "Own attention function (override)": _on_model(_patched(_override)),
    "Function around the model": _on_model(_patched(lambda clone: clone.set_model_unet_function_wrapper(louder))),
    "Injection (motion modules)": _on_model(_patched(_injected)),
    "Object patch on a block": _on_model(_patched(_object_patched)),
}
"""Features that models of every kind have; the matrix has them for a transformer (Flux) and a UNet."""

TRANSFORMERS: dict[str, Feature] = {
    "torch.compile": _on_model(_patched(functools.partial(set_torch_compile_wrapper, backend="eager"))),
    "ControlNet, union": union,
    "Reference latents": references,
    "Skip layer guidance (SLG)": _on_model(
        _node(
            slg.SkipLayerGuidanceDiT,
            scale=3.0,
            start_percent=0.0,
            end_percent=1.0,
            double_layers="1",
            single_layers="0",
        )
    ),
    "Attention patch (attn1)": _on_model(_patched(lambda clone: clone.set_model_attn1_patch(reweighted))),
    "Reference attention (keys added)": _on_model(_patched(lambda clone: clone.set_model_attn1_patch(with_reference))),
    "Context windows": windows,
}
"""Features of transformers only, with Flux (context windows: Wan)."""

UNETS: dict[str, Feature] = {
    "Inpaint model (further channels)": inpaint_model,
    "ControlLora": control_lora,
    "T2I adapter": t2i_adapter,
    "GLIGEN": gligen,
    "PAG": _on_model(_node(pag.PerturbedAttentionGuidance, scale=3.0)),
    "SAG": _on_model(_node(sag.SelfAttentionGuidance, scale=0.5, blur_sigma=2.0)),
    "FreeU": _on_model(_node(freelunch.FreeU_V2, b1=1.3, b2=1.4, s1=0.9, s2=0.2)),
    "HyperTile": _on_model(_node(hypertile.HyperTile, tile_size=32, swap_size=2, max_depth=0, scale_depth=False)),
    "Token merging (ToMe)": _on_model(_node(tomesd.TomePatchModel, ratio=0.3)),
    "Deep shrink": _on_model(
        _node(
            downscale.PatchModelAddDownscale, block_number=3, downscale_factor=2.0, start_percent=0.0, end_percent=0.35,
            downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
        )
    ),
    "Attention multiply": _on_model(_node(attention_multiply.UNetCrossAttentionMultiply, q=1.2, k=1.0, v=0.9, out=1.0)),
    "Attention patch (attn2)": _on_model(_patched(lambda clone: clone.set_model_attn2_patch(scaled_queries))),
    "Attention replacement (IP-Adapter)": _on_model(
        _patched(lambda clone: clone.set_model_attn2_replace(also_a_reference, "input", 1))
    ),
}  # fmt: skip
"""Features of UNets only."""
