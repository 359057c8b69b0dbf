"""The node Residual Compression: how the tensors that workers exchange are compressed."""

from typing import Any

from comfy_api.latest import io

from ..runtime.compression.codecs import OFFERED, require_known
from ..runtime.config import PREDICTORS, CompressionConfig
from .types import CATEGORY, ParallelCompression, chosen
from .validation import verdict

DEFAULT = CompressionConfig()


class CompactParallelCompression(io.ComfyNode):
    """Chooses how the tensors that workers exchange are compressed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelCompression",
            display_name="Residual Compression",
            category=CATEGORY,
            accept_all_inputs=True,  # lets validate_inputs see a mode that does not exist (any more)
            description=(
                "Sends only how the tensors of a step changed since the last one, quantised, and feeds the error back "
                "(CompactFusion). Worth it on slow links such as PCIe without P2P or a network; the picture changes "
                "slightly. It acts on ring_degree and ulysses_degree, not on cfg_degree."
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
                        "Model calls at the start that are sent in 8 bits. Two give the predictor two good "
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
                        "Memory each worker may spend on the last values it sent and received. Beyond it they are kept "
                        "in 8 bits, then the simpler predictor is used, then tensors are sent in 8 bits without "
                        "memory; the report says so."
                    ),
                ),
                io.DynamicCombo.Input(
                    "mode",
                    optional=True,
                    tooltip=(
                        "auto: only where the measured link makes it pay. off: exact. ratio: meets a ratio over the "
                        "run. quality: keeps every error below a bound. codec: a codec of your choice."
                    ),
                    options=[
                        io.DynamicCombo.Option("auto", []),
                        io.DynamicCombo.Option("off", []),
                        io.DynamicCombo.Option(
                            "ratio",
                            [
                                io.Float.Input(
                                    "ratio",
                                    default=DEFAULT.ratio,
                                    min=1.1,
                                    max=64.0,
                                    step=0.1,
                                    optional=True,
                                    tooltip=(
                                        "How many times less is sent than 16 bits per value would be, over the whole "
                                        "run. The tensors and steps that change most get most of the bits."
                                    ),
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "quality",
                            [
                                io.Float.Input(
                                    "max_relative_error",
                                    default=DEFAULT.max_relative_error,
                                    min=0.001,
                                    max=0.9,
                                    step=0.001,
                                    optional=True,
                                    tooltip=(
                                        "No tensor that is sent may be further from the true one than this part of its "
                                        "own size. Each gets the fewest bits that keep it."
                                    ),
                                )
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "codec",
                            [
                                io.Combo.Input(
                                    "codec",
                                    options=list(OFFERED),
                                    default=DEFAULT.codec,
                                    optional=True,
                                    tooltip=(
                                        "Bits per value after the warm-up. Over 20 steps 2bit sends about a fifth, "
                                        "1bit about a seventh of what 16 bit would; fewer bits, coarser pictures. The "
                                        "low-rank codecs send still less and lose more."
                                    ),
                                ),
                                io.Int.Input(
                                    "rank",
                                    default=DEFAULT.rank,
                                    min=1,
                                    max=256,
                                    optional=True,
                                    tooltip="Columns of the low_rank codecs; the others have no use for it.",
                                ),
                            ],
                        ),
                    ],
                ),
            ],
            outputs=[ParallelCompression.Output(tooltip="Plug into Parallel Model or Parallel Pipeline.")],
        )

    @classmethod
    def validate_inputs(cls, mode: Any = None) -> bool | str:
        """Checks, before anything runs, that the mode exists and has these inputs."""
        return verdict(cls, "mode")

    @classmethod
    def execute(
        cls,
        predictor: str = DEFAULT.predictor,
        error_feedback: bool = DEFAULT.error_feedback,
        warmup_calls: int = DEFAULT.warmup_calls,
        keep_text_exact: bool = DEFAULT.keep_text_exact,
        base_memory_gb: float = DEFAULT.base_memory_gb,
        mode: dict | None = None,
        **idle: Any,
    ) -> io.NodeOutput:
        """`idle` has the inputs of modes that are not chosen; they are ignored."""
        config = CompressionConfig(
            predictor=predictor,
            error_feedback=error_feedback,
            warmup_calls=warmup_calls,
            keep_text_exact=keep_text_exact,
            base_memory_gb=base_memory_gb,
            **chosen(mode, "auto"),
        )
        require_known(config)
        return io.NodeOutput(config)
