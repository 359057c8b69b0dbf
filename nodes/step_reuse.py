"""The node Step Reuse: how many neighbouring calls of the sampler are evaluated at the same time."""

from typing import Any

from comfy_api.latest import io

from ..runtime.config import STEP_PREDICTORS, StepReuseConfig
from .types import CATEGORY, ParallelStepReuse, chosen
from .validation import verdict

DEFAULT = StepReuseConfig()


class CompactParallelStepReuse(io.ComfyNode):
    """Chooses how many calls of the sampler are evaluated at the same time."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelStepReuse",
            display_name="Step Reuse",
            category=CATEGORY,
            accept_all_inputs=True,  # lets validate_inputs see a mode that does not exist (any more)
            description=(
                "Lets the workers compute neighbouring sampling steps at the same time: each starts from a good guess "
                "of where the step before it will end. Hardly anything is sent between the workers, so it works on any "
                "link and with every model. The picture changes a little; guesses that were off are computed again."
            ),
            search_aliases=["parastep", "step parallel", "look ahead", "speculative sampling", "batchstep"],
            inputs=[
                io.DynamicCombo.Input(
                    "mode",
                    optional=True,
                    tooltip="off: one step after the other. look_ahead: several at the same time.",
                    options=[
                        io.DynamicCombo.Option("off", []),
                        io.DynamicCombo.Option(
                            "look_ahead",
                            [
                                io.Int.Input(
                                    "look_ahead",
                                    default=DEFAULT.look_ahead,
                                    min=1,
                                    max=64,
                                    optional=True,
                                    tooltip=(
                                        "Model calls evaluated at a time. 2 is hardly visible, 4 needs 30 steps or "
                                        "more. More than there are workers for are evaluated as one batch."
                                    ),
                                ),
                                io.Int.Input(
                                    "warmup_calls",
                                    default=DEFAULT.warmup_calls,
                                    min=1,
                                    max=1000,
                                    optional=True,
                                    tooltip=(
                                        "First calls that are evaluated one by one. They decide what the picture "
                                        "shows; guesses need at least one."
                                    ),
                                ),
                                io.Int.Input(
                                    "tail_calls",
                                    default=DEFAULT.tail_calls,
                                    min=0,
                                    max=1000,
                                    optional=True,
                                    tooltip="Last calls that are evaluated one by one; nothing after them mends them.",
                                ),
                                io.Combo.Input(
                                    "predictor",
                                    options=list(STEP_PREDICTORS),
                                    default=DEFAULT.predictor,
                                    optional=True,
                                    tooltip=(
                                        "How the coming steps are guessed. hold: as the last one. linear: on along "
                                        "the last two. auto: in between, as fitted to the steps so far."
                                    ),
                                ),
                                io.Float.Input(
                                    "tolerance",
                                    default=DEFAULT.tolerance,
                                    min=0.0,
                                    max=0.99,
                                    step=0.005,
                                    round=False,
                                    optional=True,
                                    tooltip=(
                                        "How far off a guess may lead, as a share of the picture's strength, before "
                                        "it is computed again. 0: never again."
                                    ),
                                ),
                            ],
                        ),
                    ],
                ),
            ],
            outputs=[ParallelStepReuse.Output(tooltip="Plug into Parallel Model or Parallel Pipeline.")],
        )

    @classmethod
    def validate_inputs(cls, mode: Any = None) -> bool | str:
        """Checks, before anything runs, that the mode exists and has these inputs."""
        return verdict(cls, "mode")

    @classmethod
    def execute(cls, mode: dict | None = None, **idle: Any) -> io.NodeOutput:
        """`idle` has the inputs of modes that are not chosen; they are ignored."""
        return io.NodeOutput(StepReuseConfig(**chosen(mode, "off")))
