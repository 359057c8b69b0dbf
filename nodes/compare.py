"""The node Parallel Compare: difference and PSNR of two pictures, and the seconds of the runs that made them."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from comfy_api.latest import io

from ..runtime.report.metrics import psnr
from ..runtime.report.summary import format_devices, format_seconds, plural
from .types import CATEGORY

_AMPLIFY = 10.0


class CompactParallelCompare(io.ComfyNode):
    """Shows the difference of two pictures or videos, their PSNR and the seconds of the runs that made them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelCompare",
            display_name="Parallel Compare",
            category=CATEGORY,
            description=(
                "How far a picture or video is from a reference: the difference as a picture, the PSNR in words and, "
                "where the reports of both runs are plugged in, the seconds of sampling side by side."
            ),
            search_aliases=["psnr", "difference", "compare images", "speedup", "quality"],
            inputs=[
                io.Image.Input("image", tooltip="The picture or video to judge."),
                io.Image.Input("reference", tooltip="What it should look like; of the same size."),
                io.String.Input(
                    "report",
                    optional=True,
                    force_input=True,
                    tooltip="The report output of the Parallel Report of the image's run, for its seconds.",
                ),
                io.String.Input(
                    "reference_report",
                    optional=True,
                    force_input=True,
                    tooltip="The report output of the Parallel Report of the reference's run.",
                ),
                io.Float.Input(
                    "amplify",
                    default=_AMPLIFY,
                    min=1.0,
                    max=1000.0,
                    step=1.0,
                    optional=True,
                    tooltip="How many times stronger than it is the difference is drawn. It changes no number.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="difference", tooltip="What differs, amplified; black where nothing does."
                ),
                io.String.Output(display_name="summary", tooltip="PSNR, largest difference and seconds."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        reference: torch.Tensor,
        report: str | None = None,
        reference_report: str | None = None,
        amplify: float = _AMPLIFY,
    ) -> io.NodeOutput:
        if image.shape != reference.shape:
            raise ValueError(f"image is {_size(image)} but reference is {_size(reference)}; give two of the same size.")
        difference = (image - reference).abs()
        lines = [_distance(psnr(image, reference), difference.max().item())]
        runs = [_run(name, text) for name, text in (("report", report), ("reference_report", reference_report))]
        lines += _seconds(*runs)
        summary = "\n".join(lines)
        return io.NodeOutput((difference * amplify).clamp(0, 1), summary, ui={"text": (summary,)})


def _size(pictures_BHWC: torch.Tensor) -> str:
    frames, height, width, channels = pictures_BHWC.shape
    return f"{plural(frames, 'picture')} of {width} x {height} with {plural(channels, 'channel')}"


def _distance(decibels: float, largest: float) -> str:
    if math.isinf(decibels):
        return "The pictures are equal."
    return f"PSNR {decibels:.1f} dB; the largest difference is {largest:.2%} of full brightness."


def _run(name: str, text: str | None) -> dict[str, Any] | None:
    """The report in `text`, the output of a Parallel Report; None if nothing is plugged in. Raises ValueError."""
    if text is None:
        return None
    try:
        run = json.loads(text)
        return {key: run[key] for key in ("run_id", "sampling_seconds", "workers", "devices")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name}: this is no report; plug in the report output of Parallel Report.") from error


def _seconds(run: dict[str, Any] | None, reference: dict[str, Any] | None) -> list[str]:
    """One line per given run; for two, the speedup of the first, too. Raises ValueError if both are the same run."""
    lines = [
        f"{name}: {format_seconds(one['sampling_seconds'])} of sampling on {plural(one['workers'], 'worker')} "
        f"({format_devices(one['devices'])})."
        for name, one in (("image", run), ("reference", reference))
        if one is not None
    ]
    if run is None or reference is None:
        return lines
    if run["run_id"] == reference["run_id"]:
        raise ValueError(
            "report and reference_report are of the same run; plug in the reports of two runs, each from a Parallel "
            "Report right behind its sampler."
        )
    return [*lines, f"{reference['sampling_seconds'] / run['sampling_seconds']:.2f} times as fast as the reference."]
