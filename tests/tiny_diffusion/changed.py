"""What workflows put into a model in place of its own code: {name: (build, change, arguments of one forward)}.

`change(module)` is what object patches and injections do to it; all of it looks at all tokens, or all of a picture.
"""

from __future__ import annotations

import functools

import torch

from .first import flux, inputs, wan
from .image import lumina, lumina_inputs, pixart, pixart_inputs, qwen, qwen_inputs
from .image_more import (
    ace_step,
    ace_step_inputs,
    boogu,
    ernie,
    ernie_inputs,
    omnigen,
    omnigen_inputs,
    triposplat,
    triposplat_inputs,
)
from .inside import FLUX_PATCHES, by_position, patched
from .patched import replaced
from .recent import ideogram, ideogram_inputs, krea, krea_inputs, pid, pid_inputs, pixeldit, pixeldit_inputs
from .relatives import ace, ace_inputs, kandinsky, kandinsky_inputs
from .unet import unet, unet_inputs, unet_video, unet_video_inputs, unet_xl, unet_xl_inputs
from .unet_patched import SKIPPED, deep_shrink
from .video import cogvideo, cogvideo_inputs, cosmos, hunyuan, hunyuan_inputs, predict2, predict2_inputs


class Mixing(torch.nn.Module):
    """A module of another pack, behind or in place of one of the model's: mixes what lies along `dim`."""

    def __init__(self, dim, inner=None):
        super().__init__()
        self.dim, self.inner = dim, inner

    def forward(self, x, *args, **kwargs):
        return by_position(x if self.inner is None else self.inner(x, *args, **kwargs), self.dim)


def behind(path, dim=1):
    """The forward of the module at `path` is replaced by one that mixes what it makes."""

    def change(module):
        inner = module.get_submodule(path)
        original = inner.forward

        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            return tuple(by_position(x, dim) for x in out) if isinstance(out, tuple) else by_position(out, dim)

        inner.forward = forward

    return change


def in_place_of(path, dim=1):
    """The module at `path` is replaced by one of another class."""

    def change(module):
        module.set_submodule(path, Mixing(dim, module.get_submodule(path)))

    return change


def hooked(path, dim=1):
    """The module at `path` gets a hook."""

    def change(module):
        hook = lambda inner, args, out: by_position(out, dim)  # noqa: E731
        module.get_submodule(path).register_forward_hook(hook)

    return change


def appended(path, dim):
    """One layer more, as motion modules are."""

    def change(module):
        module.get_submodule(path).append(Mixing(dim))

    return change


def around_the_blocks(module):
    """The function that runs the blocks is another one, as some caches have it."""
    original = module.forward_orig

    def forward_orig(img, *args, **kwargs):
        return by_position(original(img, *args, **kwargs), 1)

    module.forward_orig = functools.wraps(original)(forward_orig)


def tokens():
    """Of transformers."""
    blocks = ("double_block", 0), ("single_block", 1)
    return {
        "flux, first block": (flux, behind("double_blocks.0"), inputs("flux")),
        "flux, all blocks of the text and the picture": (
            flux,
            lambda module: [behind(f"double_blocks.{i}")(module) for i in range(2)],
            inputs("flux"),
        ),
        "flux, a layer within a block": (flux, behind("single_blocks.0.linear2"), inputs("flux")),
        "flux, a block of another class": (flux, in_place_of("single_blocks.1"), inputs("flux")),
        "flux, hook on a block's norm": (flux, hooked("double_blocks.1.img_norm2"), inputs("flux")),
        "flux, last layer": (flux, behind("final_layer"), inputs("flux")),
        "flux, first layer": (flux, behind("img_in"), inputs("flux")),
        "flux, around the blocks": (flux, around_the_blocks, inputs("flux")),
        "flux, a block, and other patches": (
            flux,
            behind("double_blocks.1"),
            inputs("flux") | patched(**FLUX_PATCHES),
        ),
        "flux, a block that is replaced, too": (flux, behind("double_blocks.0"), inputs("flux") | replaced(*blocks)),
        "wan, a block": (wan, behind("blocks.1"), inputs("wan")),
        "wan, attention of a block": (wan, behind("blocks.0.self_attn"), inputs("wan")),
        "qwen, a block": (qwen, behind("transformer_blocks.0"), qwen_inputs()),
        "lumina, feed-forward of a block": (lumina, behind("layers.0.feed_forward"), lumina_inputs()),
        "hunyuan, a block": (hunyuan, behind("single_blocks.0"), hunyuan_inputs()),
    }


def cases():
    """Of families whose models let no patch look between their blocks: {name: (build, arguments of one forward)}."""
    changes = {
        "cogvideo, a block changed": (cogvideo, behind("blocks.0"), cogvideo_inputs()),
        "pixart, a block changed": (pixart, behind("blocks.1.mlp"), pixart_inputs()),
        "kandinsky, a block changed": (kandinsky, behind("visual_transformer_blocks.1"), kandinsky_inputs()),
        "predict2, a block changed": (predict2, behind("blocks.1"), predict2_inputs()),
        "omnigen2, a block changed": (omnigen, behind("layers.0"), omnigen_inputs()),
        "boogu, blocks changed": (
            boogu,
            lambda module: [behind(f"{kind}_stream_layers.0")(module) for kind in ("double", "single")],
            omnigen_inputs(),
        ),
        "ernie, a block changed": (ernie, behind("layers.1"), ernie_inputs()),
        "triposplat, a block changed": (triposplat, behind("blocks.0"), triposplat_inputs()),
        "ace step 1, a block changed": (ace_step, behind("transformer_blocks.0"), ace_step_inputs()),
        "ace, a block changed": (ace, behind("decoder.layers.0"), ace_inputs()),
        "krea, a block changed": (krea, behind("blocks.0"), krea_inputs()),
        "ideogram, a block changed": (ideogram, behind("layers.1"), ideogram_inputs()),
        "pixeldit, a block changed": (pixeldit, behind("patch_blocks.1"), pixeldit_inputs()),
        "pid, a block changed": (pid, behind("patch_blocks.0"), pid_inputs()),
        "cosmos, a block changed": (cosmos, behind("blocks.block1", 0), predict2_inputs()),
    }
    return {name: (functools.partial(_built, build, change), given) for name, (build, change, given) in changes.items()}


def _built(build, change):
    module = build()
    change(module)
    return module


def rows():
    """Of UNets."""
    return {
        "unet, middle": (unet, behind("middle_block.0", -2), unet_inputs(22)),
        "unet, first layer": (unet, behind("input_blocks.0.0", -2), unet_inputs()),
        "unet, last layer": (unet, behind("out.2", -2), unet_inputs(19)),
        "unet, a layer that makes maps smaller": (unet, behind("input_blocks.2.0", -2), unet_inputs(21)),
        "unet, a layer that makes maps larger": (unet, behind("output_blocks.1.1", -2), unet_inputs(21)),
        "unet, norm within a transformer": (
            unet_xl,
            behind("middle_block.1.transformer_blocks.0.norm2"),
            unet_xl_inputs(),
        ),
        "unet, a layer more in some blocks": (
            unet,
            lambda module: [appended(path, -2)(module) for path in ("input_blocks.1", "output_blocks.5")],
            unet_inputs(19),
        ),
        "unet, a layer of another class": (unet, in_place_of("out.0", -2), unet_inputs()),
        "unet, a film": (unet_video, behind("input_blocks.1.0", -2), unet_video_inputs(13)),
        "unet, a layer, and smaller maps": (
            unet,
            behind("middle_block.2", -2),
            deep_shrink(unet_inputs(22), 3, SKIPPED),
        ),
        "unet, time": (unet, behind("time_embed.0"), unet_inputs()),
    }
