"""UNets: {name of the case: (build, keyword arguments of one forward)}, two batch entries (Stable Video: two films)."""

from __future__ import annotations

import torch

from .base import build, randn

HEADS = 4
FRAMES = 3
TIMES = torch.tensor([0.3, 0.7]) * 1000


def unet(**changes):
    """Three resolutions with transformers at two of them, as Stable Diffusion 1.5 has them."""
    arguments = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1, 1],
        "channel_mult": (1, 2, 2), "num_heads": HEADS, "use_spatial_transformer": True, "transformer_depth": [1, 1, 0],
        "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1, 0, 0], "context_dim": 20,
        "legacy": False,
    }  # fmt: skip
    return build("comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel", **arguments | changes)


def unet_xl():
    """As Stable Diffusion XL: pooled text and sizes, deeper transformers at the lower resolutions, linear layers."""
    return unet(
        num_classes="sequential",
        adm_in_channels=16,
        num_heads=-1,
        num_head_channels=16,
        transformer_depth=[0, 1, 2],
        transformer_depth_middle=2,
        transformer_depth_output=[0, 0, 1, 1, 2, 2],
        use_linear_in_transformer=True,
    )


def unet_video(video_kernel_size=(3, 1, 1)):
    """As Stable Video Diffusion: temporal residual blocks and transformers behind the spatial ones."""
    return unet(
        in_channels=8,
        num_classes="sequential",
        adm_in_channels=16,
        num_heads=-1,
        num_head_channels=16,
        use_linear_in_transformer=True,
        use_temporal_attention=True,
        use_temporal_resblock=True,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        video_kernel_size=video_kernel_size if isinstance(video_kernel_size, int) else list(video_kernel_size),
    )


def unet_inputs(height=16, width=10):
    """A picture and a text."""
    return {"x": randn(2, 4, height, width), "timesteps": TIMES, "context": randn(2, 7, 20)}


def unet_xl_inputs(height=16, width=10):
    """A picture, a text, and what is known of it as a whole."""
    return unet_inputs(height, width) | {"y": randn(2, 16)}


def unet_video_inputs(height=16, width=10):
    """Two films of three frames, and a picture each to go by."""
    many = 2 * FRAMES
    return {
        "x": randn(many, 8, height, width), "timesteps": TIMES.repeat_interleave(FRAMES), "y": randn(many, 16),
        "context": randn(many, 1, 20), "num_video_frames": FRAMES, "image_only_indicator": torch.zeros(2, FRAMES),
    }  # fmt: skip


def cases():
    """{name: (build, keyword arguments of one forward)}."""
    still = {"image_only_indicator": torch.ones(2, FRAMES)}
    return {
        "unet": (unet, unet_inputs()),
        "unet, rows that do not divide": (unet, unet_inputs(height=22, width=9)),
        "unet, odd at every resolution": (unet, unet_inputs(height=21, width=7)),
        "unet, one row at the lowest resolution, or two": (unet, unet_inputs(height=9, width=5)),
        "unet, some attention to the text alone": (
            lambda: unet(disable_self_attentions=[True, False, False]),
            unet_inputs(),
        ),
        "unet, no text": (
            lambda: unet(channel_mult=(1, 1, 1), context_dim=32),
            unet_inputs() | {"context": None},
        ),
        "unet, scale and shift by the time": (lambda: unet(use_scale_shift_norm=True), unet_inputs()),
        "unet xl": (unet_xl, unet_xl_inputs()),
        "unet xl, odd": (unet_xl, unet_xl_inputs(height=19)),
        "unet video": (unet_video, unet_video_inputs()),
        "unet video, odd": (unet_video, unet_video_inputs(height=13)),
        "unet video, films of pictures": (unet_video, unet_video_inputs() | still),
        "unet video, temporal layers that see neighbours": (
            lambda: unet_video(video_kernel_size=3),
            unet_video_inputs(),
        ),
    }
