"""The node Tiny Picture Prompt: attributes instead of text, so the demo needs no text encoder."""

from comfy_api.latest import io

from .demo_encoding import ANY, ATTRIBUTES, choices_to_indices, encode

_TOOLTIPS = {
    "shape": "The figure in the picture.",
    "colour": "The colour of the figure.",
    "background": "The tint behind the figure.",
    "texture": "The pattern on the figure.",
    "position": "Where the figure sits in the picture.",
}


class CompactParallelDemoPrompt(io.ComfyNode):
    """Encodes five choices as CONDITIONING for the tiny demo model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelDemoPrompt",
            display_name="Tiny Picture Prompt (demo)",
            category="parallel/demo",
            description=(
                "A prompt for the tiny demo model that comes with this pack. "
                'Leave everything on "any" for the negative prompt.'
            ),
            search_aliases=["tiny model", "demo conditioning", "prompt without clip"],
            inputs=[
                io.Combo.Input(
                    name,
                    options=[ANY, *values],
                    default=ANY,
                    tooltip=f'{_TOOLTIPS[name]} "{ANY}" leaves it to the model.',
                )
                for name, values in ATTRIBUTES.items()
            ],
            outputs=[io.Conditioning.Output(tooltip="Conditioning for the tiny demo model only.")],
        )

    @classmethod
    def execute(cls, shape: str, colour: str, background: str, texture: str, position: str) -> io.NodeOutput:
        indices = choices_to_indices(
            shape=shape, colour=colour, background=background, texture=texture, position=position
        )
        tokens, pooled = encode(indices)
        return io.NodeOutput([[tokens, {"pooled_output": pooled}]])
