"""The node Parallel Report: plot, summary and JSON of the run that made a latent."""

import json

import torch
from comfy_api.latest import io

from ..runtime.comfy.run.executing_node import place
from ..runtime.compression.codecs import COARSE_TO_EXACT
from ..runtime.report.plot import draw, to_pixels
from ..runtime.report.summary import summarize
from .provenance import report_of
from .types import CATEGORY


class CompactParallelReport(io.ComfyNode):
    """Shows seconds, bytes and errors of the parallel run behind a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelReport",
            display_name="Parallel Report",
            category=CATEGORY,
            description=(
                "What the parallel run that made this latent measured: where the time went, how much was sent, how "
                "large the compression's errors were. Put it between the sampler and VAE Decode."
            ),
            search_aliases=["benchmark", "profile", "statistics", "bytes sent"],
            inputs=[io.Latent.Input("latent", tooltip="The sampler's output.")],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The same latent."),
                io.Image.Output(display_name="plot", tooltip="Time, bytes and errors of the run as a picture."),
                io.String.Output(display_name="summary", tooltip="The run in a few words."),
                io.String.Output(display_name="report", tooltip="Everything as JSON."),
            ],
        )

    @classmethod
    def execute(cls, latent: dict) -> io.NodeOutput:
        report = report_of(latent["samples"], place())
        plot = torch.from_numpy(to_pixels(draw(report, COARSE_TO_EXACT))).float().div(255).unsqueeze(0)
        summary = summarize(report)
        return io.NodeOutput(latent, plot, summary, json.dumps(report), ui={"text": (summary,)})
