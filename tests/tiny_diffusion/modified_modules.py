"""Modules of a model that a workflow has changed: {name: (build, change, arguments of one forward)}.

`change(module)` is what object patches and injections do to it; all of it looks at all tokens, or all of a picture.
"""

from __future__ import annotations

from .base import inputs
from .block_patches import FLUX_PATCHES, patched
from .changes import after, appended, around_the_blocks, hooked, in_place_of
from .flux import flux
from .hunyuan import hunyuan, hunyuan_inputs
from .lumina import lumina, lumina_inputs
from .patches import replaced
from .qwen import qwen, qwen_inputs
from .unet import unet, unet_inputs, unet_video, unet_video_inputs, unet_xl, unet_xl_inputs
from .unet_patched import SKIPPED, deep_shrink
from .wan import wan


def tokens():
    """Of transformers."""
    blocks = ("double_block", 0), ("single_block", 1)
    return {
        "flux, first block": (flux, after("double_blocks.0"), inputs("flux")),
        "flux, all blocks of the text and the picture": (
            flux,
            lambda module: [after(f"double_blocks.{i}")(module) for i in range(2)],
            inputs("flux"),
        ),
        "flux, a layer within a block": (flux, after("single_blocks.0.linear2"), inputs("flux")),
        "flux, a block of another class": (flux, in_place_of("single_blocks.1"), inputs("flux")),
        "flux, hook on a block's norm": (flux, hooked("double_blocks.1.img_norm2"), inputs("flux")),
        "flux, last layer": (flux, after("final_layer"), inputs("flux")),
        "flux, first layer": (flux, after("img_in"), inputs("flux")),
        "flux, around the blocks": (flux, around_the_blocks, inputs("flux")),
        "flux, a block, and other patches": (
            flux,
            after("double_blocks.1"),
            inputs("flux") | patched(**FLUX_PATCHES),
        ),
        "flux, a block that is replaced, too": (flux, after("double_blocks.0"), inputs("flux") | replaced(*blocks)),
        "wan, a block": (wan, after("blocks.1"), inputs("wan")),
        "wan, attention of a block": (wan, after("blocks.0.self_attn"), inputs("wan")),
        "qwen, a block": (qwen, after("transformer_blocks.0"), qwen_inputs()),
        "lumina, feed-forward of a block": (lumina, after("layers.0.feed_forward"), lumina_inputs()),
        "hunyuan, a block": (hunyuan, after("single_blocks.0"), hunyuan_inputs()),
    }


def rows():
    """Of UNets."""
    return {
        "unet, middle": (unet, after("middle_block.0", -2), unet_inputs(22)),
        "unet, first layer": (unet, after("input_blocks.0.0", -2), unet_inputs()),
        "unet, last layer": (unet, after("out.2", -2), unet_inputs(19)),
        "unet, a layer that makes maps smaller": (unet, after("input_blocks.2.0", -2), unet_inputs(21)),
        "unet, a layer that makes maps larger": (unet, after("output_blocks.1.1", -2), unet_inputs(21)),
        "unet, norm within a transformer": (
            unet_xl,
            after("middle_block.1.transformer_blocks.0.norm2"),
            unet_xl_inputs(),
        ),
        "unet, a layer more in some blocks": (
            unet,
            lambda module: [appended(path, -2)(module) for path in ("input_blocks.1", "output_blocks.5")],
            unet_inputs(19),
        ),
        "unet, a layer of another class": (unet, in_place_of("out.0", -2), unet_inputs()),
        "unet, a film": (unet_video, after("input_blocks.1.0", -2), unet_video_inputs(13)),
        "unet, a layer, and smaller maps": (
            unet,
            after("middle_block.2", -2),
            deep_shrink(unet_inputs(22), 3, SKIPPED),
        ),
        "unet, time": (unet, after("time_embed.0"), unet_inputs()),
    }
