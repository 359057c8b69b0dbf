"""Parallel Compare on the real server: its numbers, and what it says to wrong inputs."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from compact_parallel.workflows.client import NodeError
from PIL import Image

pytestmark = pytest.mark.server

BLACK, GREY = 0, 0x333333  # 51 / 255 apart: 20 log10(5) dB
WIDTH, HEIGHT = 64, 32


def workflow(colour, *, width=WIDTH, amplify=None, reports=()):
    """A plain picture against a black one; `reports` are the texts for report and reference_report."""
    made = {
        str(number): {"class_type": "EmptyImage", "inputs": {"width": w, "height": HEIGHT, "batch_size": 2, "color": c}}
        for number, w, c in ((1, width, colour), (2, WIDTH, BLACK))
    }
    compare = {"image": ["1", 0], "reference": ["2", 0], **({"amplify": amplify} if amplify else {})}
    for number, (name, text) in enumerate(zip(("report", "reference_report"), reports), 10):
        made[str(number)] = {"class_type": "PrimitiveString", "inputs": {"value": text}}
        compare[name] = [str(number), 0]
    made["3"] = {"class_type": "CompactParallelCompare", "inputs": compare}
    made["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "difference"}}
    made["5"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 1]}}
    return made


def report(run_id, seconds):
    return json.dumps({"run_id": run_id, "sampling_seconds": seconds, "workers": 1, "devices": ["cpu"], "more": 1})


def test_the_numbers_are_those_of_the_definition(talk):
    _, outputs = talk.run(workflow(GREY, amplify=2.0))
    assert outputs["5"]["text"][0] == "PSNR 14.0 dB; the largest difference is 20.00% of full brightness."
    assert outputs["3"]["text"] == outputs["5"]["text"]
    assert len(outputs["4"]["images"]) == 2
    drawn = np.asarray(Image.open(io.BytesIO(talk.fetch(outputs["4"]["images"][0]))))
    assert drawn.shape == (HEIGHT, WIDTH, 3) and np.all(drawn == 102)


def test_equal_pictures_are_said_to_be(talk):
    _, outputs = talk.run(workflow(BLACK))
    assert outputs["5"]["text"][0] == "The pictures are equal."


def test_seconds_stand_side_by_side(talk):
    _, outputs = talk.run(workflow(GREY, reports=(report("a", 2.0), report("b", 5.0))))
    assert outputs["5"]["text"][0].splitlines()[1:] == [
        "image: 2.0 s of sampling on 1 worker (cpu).",
        "reference: 5.0 s of sampling on 1 worker (cpu).",
        "2.50 times as fast as the reference.",
    ]
    _, outputs = talk.run(workflow(GREY, reports=(report("a", 2.0),)))
    assert outputs["5"]["text"][0].splitlines()[1:] == ["image: 2.0 s of sampling on 1 worker (cpu)."]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 16}, "image is 2 pictures of 16 x 32 with 3 channels but reference is 2 pictures of 64 x 32"),
        ({"reports": ("hello",)}, "report: this is no report; plug in the report output of Parallel Report"),
        ({"reports": (report("a", 1.0), "{}")}, "reference_report: this is no report"),
        ({"reports": (report("a", 1.0), report("a", 1.0))}, "are of the same run; plug in the reports of two runs"),
    ],
)
def test_wrong_inputs_are_explained(talk, options, sentence):
    with pytest.raises(NodeError, match=sentence) as caught:
        talk.run(workflow(GREY, **options))
    assert caught.value.node_type == "CompactParallelCompare"
