"""The node Sample Pipeline: runs a pipeline on the pool and gives its picture, video or sound."""

from fractions import Fraction
from typing import Any

from comfy_api.latest import InputImpl, Types, io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..runtime.pipelines.inputs import PipelineInputs, parse_arguments
from .types import CATEGORY, ParallelPipeline

MADE = {"image": "a picture", "video": "a video", "audio": "sound"}
NONE = "This pipeline makes {}, so Sample Pipeline has no {} to give; take its output {}."


class CompactParallelPipelineSample(io.ComfyNode):
    """Runs a pipeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelPipelineSample",
            display_name="Sample Pipeline",
            category=CATEGORY,
            description=(
                "Runs a Parallel Pipeline. What you leave at 0 or empty is the pipeline's own default; what it does "
                "not take is an error that lists what it takes."
            ),
            search_aliases=["diffusers sampler", "text to audio", "text to video", "run pipeline"],
            inputs=[
                ParallelPipeline.Input("pipeline", tooltip="From Parallel Pipeline."),
                io.String.Input("prompt", default="", multiline=True, optional=True, tooltip="What to make."),
                io.String.Input(
                    "negative_prompt", default="", multiline=True, optional=True, tooltip="What to keep away from."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    optional=True,
                    tooltip="The same seed gives the same result.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    optional=True,
                    tooltip="Denoising steps. 0: the pipeline's own number.",
                ),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="How closely to follow the prompt (CFG, or the model's own). 0: its own value, 1: none.",
                ),
                io.Image.Input("image", optional=True, tooltip="For pipelines that start from a picture."),
                _size("width", "Pixels across. 0: the pipeline's own."),
                _size("height", "Pixels down. 0: the pipeline's own."),
                io.Int.Input(
                    "frames", default=0, min=0, max=4096, optional=True, tooltip="Of a video. 0: the pipeline's own."
                ),
                io.Float.Input(
                    "seconds",
                    default=0.0,
                    min=0.0,
                    max=3600.0,
                    step=0.1,
                    optional=True,
                    tooltip="Length of a sound. 0: the pipeline's own.",
                ),
                io.Int.Input(
                    "fps",
                    default=0,
                    min=0,
                    max=120,
                    optional=True,
                    tooltip="Frames per second of a video. 0: what the model was made for.",
                ),
                io.String.Input(
                    "scheduler",
                    default="",
                    optional=True,
                    tooltip='The name of another scheduler of diffusers, such as "UniPCMultistepScheduler".',
                ),
                io.String.Input(
                    "arguments",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip='Further arguments of the pipeline as JSON, such as {"max_sequence_length": 256}.',
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture, or the frames of the video."),
                io.Video.Output(tooltip="The video, for Save Video."),
                io.Audio.Output(tooltip="The sound, for Save Audio."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline: Any,
        prompt: str = "",
        negative_prompt: str = "",
        seed: int = 0,
        steps: int = 0,
        guidance: float = 0.0,
        image: Tensor | None = None,
        width: int = 0,
        height: int = 0,
        frames: int = 0,
        seconds: float = 0.0,
        fps: int = 0,
        scheduler: str = "",
        arguments: str = "",
    ) -> io.NodeOutput:
        inputs = PipelineInputs(
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
            frames=frames,
            seconds=seconds,
            fps=fps,
            scheduler=scheduler.strip(),
            arguments=parse_arguments(arguments),
        )
        result = pipeline.sample(inputs, image)
        made = MADE[result.kind]
        if result.kind == "audio":
            sound = {"waveform": result.values, "sample_rate": int(result.rate)}
            return io.NodeOutput(_none(made, "picture", "AUDIO"), _none(made, "video", "AUDIO"), sound)
        silent = _none(made, "sound", result.kind.upper())
        if result.kind == "image":
            return io.NodeOutput(result.values, _none(made, "video", "IMAGE"), silent)
        rate = Fraction(result.rate).limit_denominator(1000)
        parts = Types.VideoComponents(images=result.values, frame_rate=rate)
        return io.NodeOutput(result.values, InputImpl.VideoFromComponents(parts), silent)


def _size(name: str, tooltip: str) -> io.Int.Input:
    return io.Int.Input(name, default=0, min=0, max=16384, optional=True, tooltip=tooltip)


def _none(made: str, wanted: str, output: str) -> ExecutionBlocker:
    return ExecutionBlocker(NONE.format(made, wanted, output))
