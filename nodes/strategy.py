"""The node Parallel Strategy: the degrees of parallelism."""

from typing import Any

from comfy_api.latest import io

from ..runtime.attention import exchanges
from ..runtime.config import WEIGHTS, StrategyConfig
from .types import CATEGORY, ParallelStrategy, chosen
from .validation import verdict


def _degree(name: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=1, min=1, max=64, optional=True, tooltip=tooltip)


class CompactParallelStrategy(io.ComfyNode):
    """Sets the degrees of parallelism, or has them chosen for each job."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelStrategy",
            display_name="Parallel Strategy",
            category=CATEGORY,
            accept_all_inputs=True,  # lets validate_inputs see a mode that does not exist (any more)
            description=(
                "How the workers share the work. auto: with CFG above 1 on an even number of workers, half of them "
                "take the negative prompt; the rest share the pictures of a batch, then the tokens. manual: your "
                "degrees; they multiply to the number of workers."
            ),
            search_aliases=["ulysses", "ring", "cfg parallel", "sequence parallel", "usp"],
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=list(WEIGHTS),
                    default=WEIGHTS[0],
                    optional=True,
                    tooltip="replicate: every worker holds the whole model.",
                ),
                io.Boolean.Input(
                    "overlap",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Compute on what has arrived while the rest travels. Off only for comparison.",
                ),
                io.DynamicCombo.Input(
                    "mode",
                    optional=True,
                    tooltip="auto chooses the degrees for each job; manual takes yours.",
                    options=[
                        io.DynamicCombo.Option("auto", []),
                        io.DynamicCombo.Option(
                            "manual",
                            [
                                _degree(
                                    "cfg_degree",
                                    "Workers that share the conditions of a call: 2 puts the positive and the negative "
                                    "prompt on different workers. Works with every model; needs CFG above 1.",
                                ),
                                _degree(
                                    "step_degree",
                                    "Groups of workers that compute neighbouring steps at the same time (see Step "
                                    "Reuse). Works with every model and on any link; the picture changes a little.",
                                ),
                                _degree(
                                    "ulysses_degree",
                                    "Workers that share the attention heads. Sends least with four workers or more; "
                                    "must divide the model's heads. Residual Compression acts on it.",
                                ),
                                _degree(
                                    "ring_degree",
                                    "Workers that share the tokens and exchange keys and values. Any number works. "
                                    "Residual Compression acts on it.",
                                ),
                                io.Combo.Input(
                                    "ring_exchange",
                                    options=list(exchanges.OFFERED),
                                    default=StrategyConfig.ring_exchange,
                                    optional=True,
                                    tooltip=" ".join(
                                        f"{name}: {exchange.tooltip}" for name, exchange in exchanges.BY_NAME.items()
                                    ),
                                ),
                                # New inputs must come last, because saved workflows store values by their order.
                                _degree(
                                    "data_degree",
                                    "Groups of workers that share the pictures of a batch. Works with every model and "
                                    "on any link; needs a batch_size of as many or more.",
                                ),
                            ],
                        ),
                    ],
                ),
            ],
            outputs=[ParallelStrategy.Output(tooltip="Plug into Parallel Model or Parallel Pipeline.")],
        )

    @classmethod
    def validate_inputs(cls, mode: Any = None) -> bool | str:
        """Checks, before anything runs, that the mode exists and has these inputs."""
        return verdict(cls, "mode")

    @classmethod
    def execute(
        cls, weights: str = WEIGHTS[0], overlap: bool = True, mode: dict | None = None, **idle: Any
    ) -> io.NodeOutput:
        """`idle` has the inputs of modes that are not chosen; they are ignored."""
        config = StrategyConfig(weights=weights, overlap=overlap, **chosen(mode, "auto"))
        exchanges.require_known(config)
        return io.NodeOutput(config)
