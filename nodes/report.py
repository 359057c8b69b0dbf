"""The node Parallel Report: plot, summary and JSON of the run that made a latent, a picture, a video or a sound."""

import json
from typing import Any

import torch
from comfy_api.latest import io

from ..runtime.comfy.run.executing_node import place
from ..runtime.compression.codecs import COARSE_TO_EXACT
from ..runtime.report.plot import draw, to_pixels
from ..runtime.report.summary import summarize
from .provenance import report_of
from .types import CATEGORY


class CompactParallelReport(io.ComfyNode):
    """Shows seconds, bytes and errors of the parallel run behind a latent or behind what a pipeline made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        made = io.MatchType.Template("made", [io.Latent, io.Image, io.Video, io.Audio])
        return io.Schema(
            node_id="CompactParallelReport",
            display_name="Parallel Report",
            category=CATEGORY,
            description=(
                "What the parallel run that made this latent measured: where the time went, how much was sent, how "
                "large the compression's errors were. Put it between the sampler and VAE Decode, or behind Sample "
                "Pipeline."
            ),
            search_aliases=["benchmark", "profile", "statistics", "bytes sent"],
            inputs=[
                io.MatchType.Input(
                    "latent", made, tooltip="The sampler's output, or a picture, video or sound of Sample Pipeline."
                )
            ],
            outputs=[
                io.MatchType.Output(made, display_name="latent", tooltip="The same, unchanged."),
                io.Image.Output(display_name="plot", tooltip="Time, bytes and errors of the run as a picture."),
                io.String.Output(display_name="summary", tooltip="The run in a few words."),
                io.String.Output(display_name="report", tooltip="Everything as JSON."),
            ],
        )

    @classmethod
    def execute(cls, latent: Any) -> io.NodeOutput:
        report = report_of(_tensor_of(latent), place())
        plot = torch.from_numpy(to_pixels(draw(report, COARSE_TO_EXACT))).float().div(255).unsqueeze(0)
        summary = summarize(report)
        return io.NodeOutput(latent, plot, summary, json.dumps(report), ui={"text": (summary,)})


def _tensor_of(made: Any) -> Any:
    """The tensor of a latent, a picture or a sound, by which its run is known; None for a video, which is traced."""
    if isinstance(made, dict):
        return made.get("samples", made.get("waveform"))
    return made if isinstance(made, torch.Tensor) else None
