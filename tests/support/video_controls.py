"""Scenes of models controlled by their conditioning: VACE, Fun control, camera, guides, references, ControlNets."""

from __future__ import annotations

import functools
import json

import comfy.controlnet
import comfy.ldm.lightricks.vae.causal_video_autoencoder as ltx_autoencoder
import comfy.sd
import comfy.supported_models as supported
import comfy_extras.nodes_camera_trajectory as camera
import comfy_extras.nodes_hunyuan as hunyuan
import comfy_extras.nodes_lt as lt
import comfy_extras.nodes_wan as wan
import controls
import torch
from features.scenes import FAMILIES, HEADS, Scene, built, replace, scene, shape_of
from model_patches import film, video_vae

FRAMES = 17
PIXELS = 48


@functools.cache
def _wan(kind: str, **changes):
    return built(getattr(supported, kind), FAMILIES["wan"][1] | changes)


def _with(plain: Scene, model, positive, negative, latent) -> Scene:
    return replace(plain, model=model, positive=positive, negative=negative, latent=latent)


def vace(steer: bool = True, strength: float = 1.0) -> Scene:
    """WanVaceToVideo: a masked control video and a reference picture."""
    plain = scene("wan")
    mask = (film(FRAMES, PIXELS, PIXELS, 5)[..., 0] > 0.5).float()
    given = {"control_video": film(FRAMES, PIXELS, PIXELS), "control_masks": mask} if steer else {}
    positive, negative, latent, _ = wan.WanVaceToVideo.execute(
        plain.positive, plain.negative, video_vae(), PIXELS, PIXELS, FRAMES, 1, strength,
        reference_image=film(1, PIXELS, PIXELS, 4), **given,
    )  # fmt: skip
    model = _wan("WAN21_Vace", model_type="vace", vace_layers=2, vace_in_dim=96)
    return _with(plain, model, positive, negative, latent)


def fun_control(steer: bool = True) -> Scene:
    """Wan22FunControlToVideo: a control video, a start picture and a reference picture."""
    plain = scene("wan")
    given = {"control_video": film(FRAMES, PIXELS, PIXELS)} if steer else {}
    positive, negative, latent = wan.Wan22FunControlToVideo.execute(
        plain.positive, plain.negative, video_vae(), PIXELS, PIXELS, FRAMES, 1,
        ref_image=film(1, PIXELS, PIXELS, 4), start_image=film(1, PIXELS, PIXELS, 5), **given,
    )  # fmt: skip
    model = _wan("WAN21_FunControl2V", model_type="i2v", in_dim=52, in_dim_ref_conv=16)
    return _with(plain, model, positive, negative, latent)


def camera_control(steer: bool = True) -> Scene:
    """WanCameraImageToVideo: a camera path."""
    plain = scene("wan")
    way = camera.WanCameraEmbedding.execute("Pan Left", PIXELS, PIXELS, FRAMES)[0] if steer else None
    positive, negative, latent = wan.WanCameraImageToVideo.execute(
        plain.positive, plain.negative, video_vae(), PIXELS, PIXELS, FRAMES, 1, camera_conditions=way
    )
    model = _wan("WAN21_Camera", model_type="camera", in_dim=32)
    return _with(plain, model, positive, negative, latent)


def hunyuan_reference(steer: bool = True) -> Scene:
    """HunyuanImageToVideo with guidance type "custom": tokens of a picture in front of the video's tokens."""
    plain = scene("hunyuan_video")
    given = {"start_image": film(1, PIXELS, PIXELS)} if steer else {}
    positive, latent = hunyuan.HunyuanImageToVideo.execute(
        plain.positive, video_vae(), PIXELS, PIXELS, FRAMES, 1, "custom", **given
    )
    return replace(plain, positive=positive, latent=latent)


class PatchControl(torch.nn.Module):
    """A ControlNet, as another pack may bring it, for a model whose forward takes `control`: one layer per block."""

    def __init__(self, channels: int, patch: tuple[int, ...], hidden: int, blocks: int):
        super().__init__()
        self.patch, self.dtype = patch, torch.float32
        self.seen = torch.nn.Linear(channels * patch[0] * patch[1] + 3, hidden)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(hidden, hidden) for _ in range(2 * blocks))

    def forward(self, x, hint, timesteps, context, **kwargs):
        """x (B, C, ..., H, W), hint (B, 3, h, w) -> control (B, tokens, hidden) for double and single blocks."""
        (rows, columns), frames = self.patch, x.movedim(1, -3).reshape(-1, *x.shape[1:2], *x.shape[-2:])
        tokens = torch.nn.functional.unfold(frames, (rows, columns), stride=(rows, columns)).mT
        tokens = tokens.reshape(x.shape[0], -1, tokens.shape[-1])
        small = torch.nn.functional.adaptive_avg_pool2d(hint, (x.shape[-2] // rows, x.shape[-1] // columns))
        small = small.flatten(2).mT.repeat(1, tokens.shape[1] // small[0, 0].numel(), 1).expand(x.shape[0], -1, -1)
        seen = torch.nn.functional.gelu(self.seen(torch.cat([tokens, small], -1)))
        made = [block(seen) for block in self.blocks]
        half = len(made) // 2
        return {"input": made[:half], "output": made[half:]}


def residuals(family: str) -> Scene:
    """Apply ControlNet with a PatchControl: ComfyUI has no ControlNet for this family, but its model takes control."""
    patch = {"hunyuan_video": (2, 2), "flux2": (1, 1)}[family]
    module = PatchControl(shape_of(family)[0], patch, 12 * HEADS, 2)
    module.load_state_dict(controls.random_weights(module, 4))
    control = comfy.controlnet.ControlNet(module, load_device=torch.device("cpu"), extra_conds=[])
    plain = scene(family)
    conds = {"positive": plain.positive, "negative": plain.negative}
    positive, negative = controls.steered((control, 0.7, 0.0, 0.8), **conds)
    return replace(plain, positive=positive, negative=negative)


_LTX_VAE = {
    "dims": 3, "latent_channels": 128, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
    "encoder_base_channels": 8, "decoder_base_channels": 8,
    "blocks": [["res_x", 1], *[["compress_all", 1], ["res_x_y", 1]] * 2, ["compress_all", 1], ["res_x", 1]],
}  # fmt: skip


@functools.cache
def ltx_vae():
    """A VAE as VAELoader makes for LTX-Video: 128 channels, one latent for 32 x 32 pixels and 8 frames."""
    module = ltx_autoencoder.VideoVAE(config=_LTX_VAE)
    weights = controls.random_weights(module, 3)
    for name, value in weights.items():
        if name.startswith("per_channel_statistics"):
            weights[name] = torch.full_like(value, float("std" in name))
    return comfy.sd.VAE(sd=weights, metadata={"config": json.dumps({"vae": _LTX_VAE})})


def guided(*strengths: float, mask: bool = False, plain: Scene | None = None) -> Scene:
    """LTXVAddGuide once per strength: guides of one and of nine frames by turns, at different frame positions."""
    plain = plain or scene("ltxv")
    positive, negative, latent = plain.positive, plain.negative, plain.latent
    frames, height, width = shape_of("ltxv")[1:]
    for number, strength in enumerate(strengths):
        many, size = (1, 9)[number % 2], (32 * height, 32 * width)
        region = {"attention_mask": film(many, *size, seed=6)[..., 0]} if mask else {}
        positive, negative, latent = lt.LTXVAddGuide.execute(
            positive, negative, ltx_vae(), latent, film(many, *size, seed=number), (0, 8 * frames - 15)[number % 2],
            strength, **region,
        )  # fmt: skip
    return replace(plain, positive=positive, negative=negative, latent=latent)
