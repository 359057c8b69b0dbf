"""Residual Compression: what crosses a link gets smaller."""

from comfy_api.latest import io

from ..runtime.config import CODECS, PREDICTORS, CompressionConfig
from .types import CATEGORY, ParallelCompression, chosen

DEFAULT = CompressionConfig()


class CompactParallelCompression(io.ComfyNode):
    """Chooses how the keys and values that workers exchange are compressed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelCompression",
            display_name="Residual Compression",
            category=CATEGORY,
            description=(
                "Sends only how keys and values changed since the last step, quantised, and feeds the error back "
                "(CompactFusion). Worth it on slow links such as PCIe without P2P or a network; the picture changes "
                "slightly. It acts on ring_degree."
            ),
            search_aliases=["compactfusion", "quantise", "residual", "low bandwidth", "slow link"],
            inputs=[
                io.Combo.Input(
                    "predictor",
                    options=list(PREDICTORS),
                    default=DEFAULT.predictor,
                    optional=True,
                    tooltip=(
                        "What the change is measured against. auto: least_squares while base_memory_gb allows, else "
                        "previous (the last step's value). none: no history, much worse; for comparison."
                    ),
                ),
                io.Boolean.Input(
                    "error_feedback",
                    default=DEFAULT.error_feedback,
                    optional=True,
                    tooltip="Each step corrects the error of the step before. Off only for comparison.",
                ),
                io.Int.Input(
                    "warmup_calls",
                    default=DEFAULT.warmup_calls,
                    min=1,
                    max=100,
                    optional=True,
                    tooltip=(
                        "Model calls at the start that are sent whole, in 8 bits. Two give the predictor two good "
                        "points to continue from; with one the early steps, which matter most, are much coarser."
                    ),
                ),
                io.Boolean.Input(
                    "keep_text_exact",
                    default=DEFAULT.keep_text_exact,
                    optional=True,
                    tooltip="Send the text tokens uncompressed. A little more data, sometimes better prompt following.",
                ),
                io.Float.Input(
                    "base_memory_gb",
                    default=DEFAULT.base_memory_gb,
                    min=0.01,
                    max=1024.0,
                    step=0.1,
                    optional=True,
                    tooltip=(
                        "Memory each worker may spend on the last values it sent and received. Beyond it the simpler "
                        "predictor is used, then tensors are sent uncompressed; the report says so."
                    ),
                ),
                io.DynamicCombo.Input(
                    "mode",
                    optional=True,
                    tooltip="codec: compress with the codec chosen below; off: exact.",
                    options=[
                        io.DynamicCombo.Option(
                            "codec",
                            [
                                io.Combo.Input(
                                    "codec",
                                    options=list(CODECS),
                                    default=DEFAULT.codec,
                                    optional=True,
                                    tooltip=(
                                        "Bits per value after the warm-up. Over 20 steps 2bit sends about a fifth, "
                                        "1bit about a seventh of what 16 bit would; fewer bits, coarser pictures."
                                    ),
                                )
                            ],
                        ),
                        io.DynamicCombo.Option("off", []),
                    ],
                ),
            ],
            outputs=[ParallelCompression.Output(tooltip="Plug into Parallel Model.")],
        )

    @classmethod
    def execute(
        cls,
        predictor: str = DEFAULT.predictor,
        error_feedback: bool = DEFAULT.error_feedback,
        warmup_calls: int = DEFAULT.warmup_calls,
        keep_text_exact: bool = DEFAULT.keep_text_exact,
        base_memory_gb: float = DEFAULT.base_memory_gb,
        mode: dict | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            CompressionConfig(
                predictor=predictor,
                error_feedback=error_feedback,
                warmup_calls=warmup_calls,
                keep_text_exact=keep_text_exact,
                base_memory_gb=base_memory_gb,
                **chosen(mode, "codec"),
            )
        )
