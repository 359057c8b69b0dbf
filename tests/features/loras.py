"""Changed weights: every kind of LoRA that ComfyUI knows, on the model, on a prompt and on a schedule, and merges."""

from __future__ import annotations

import functools

import comfy.hooks
import comfy.sd
import comfy_extras.nodes_model_merging as merging
import torch
from features.scenes import Scene, replace, scene


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _layers(patcher, count: int) -> list[str]:
    """The names of some large square-ish weights, spread over the model."""
    weights = patcher.model.diffusion_model.state_dict()
    large = [
        name
        for name, value in weights.items()
        if value.ndim == 2 and min(value.shape) >= 64 and name.endswith("weight")
    ]
    return large[:: max(1, len(large) // count)][:count]


def _lora(patcher, seed: int = 3) -> dict[str, torch.Tensor]:
    """A LoRA file's weights."""
    weights = {}
    for layer in _layers(patcher, 6):
        rows, columns = patcher.model.diffusion_model.state_dict()[layer].shape
        place = f"diffusion_model.{layer.removesuffix('.weight')}"
        weights[f"{place}.lora_up.weight"] = torch.randn((rows, 4), generator=seeded(seed)) * 0.2
        weights[f"{place}.lora_down.weight"] = torch.randn((4, columns), generator=seeded(seed)) * 0.2
    return weights


def lora(family: str) -> Scene:
    """LoraLoaderModelOnly twice, one upon the other."""
    plain = scene(family)
    return replace(plain, model=with_two(plain.model))


def with_two(patcher):
    """The MODEL under two LoRA."""
    patched = patcher
    for seed, strength in ((3, 1.0), (4, -0.5)):
        patched = comfy.sd.load_lora_for_models(patched, None, _lora(patcher, seed), strength, 0)[0]
    return patched


def adapters(family: str) -> Scene:
    """One weight each with an adapter of every other type that ComfyUI knows."""
    plain = scene(family)
    state = plain.model.model.diffusion_model.state_dict()
    weights, random = {}, functools.partial(torch.randn, generator=seeded(5))
    for kind, layer in zip(("loha", "lokr", "glora", "oft", "boft", "diff"), _layers(plain.model, 6), strict=True):
        (rows, columns), place = state[layer].shape, f"diffusion_model.{layer.removesuffix('.weight')}"
        block = next(size for size in (8, 6, 4, 3, 2) if rows % size == 0)
        made = {
            "loha": {
                "hada_w1_a": random(rows, 3), "hada_w1_b": random(3, columns), "hada_w2_a": random(rows, 3),
                "hada_w2_b": random(3, columns),
            },
            "lokr": {"lokr_w1": random(2, 2) * 0.3, "lokr_w2": random(rows // 2, columns // 2) * 0.2},
            "glora": {
                "a1.weight": random(3, columns), "a2.weight": random(columns, 3), "b1.weight": random(3, columns),
                "b2.weight": random(rows, 3),
            },
            "oft": {"oft_blocks": random(rows // block, block, block) * 0.3},
            "boft": {"oft_blocks": random(1, rows // block, block, block) * 0.3, "alpha": torch.tensor(1.0)},
            "diff": {"diff": random(rows, columns) * 0.1},
        }[kind]  # fmt: skip
        damped = {name: value * (0.1 if kind in ("loha", "glora") else 1.0) for name, value in made.items()}
        weights |= {f"{place}.{name}": value for name, value in damped.items()}
    patched, _ = comfy.sd.load_lora_for_models(plain.model, None, weights, 1.0, 0)
    assert len(patched.patches) == 6, "every adapter was understood"
    return replace(plain, model=patched)


def _hook(plain: Scene, *keyframes: tuple[float, float]):
    hook = comfy.hooks.create_hook_lora(_lora(plain.model), strength_model=1.0, strength_clip=0.0)
    if keyframes:
        schedule = comfy.hooks.HookKeyframeGroup()
        for strength, start in keyframes:
            schedule.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
        hook.set_keyframes_on_hooks(schedule)
    return replace(plain, positive=comfy.hooks.set_hooks_for_conditioning(plain.positive, hook))


def lora_on_a_prompt(family: str) -> Scene:
    """A LoRA that acts with the positive prompt only."""
    return _hook(scene(family))


def lora_on_a_schedule(family: str) -> Scene:
    """A LoRA on a prompt whose strength changes on the way."""
    return _hook(scene(family), (1.0, 0.0), (0.3, 0.5))


def merged(family: str) -> Scene:
    """ModelMergeSimple of the model with itself under a LoRA."""
    plain = scene(family)
    other = comfy.sd.load_lora_for_models(plain.model, None, _lora(plain.model), 1.0, 0)[0]
    return replace(plain, model=merging.ModelMergeSimple().merge(plain.model, other, 0.5)[0])
