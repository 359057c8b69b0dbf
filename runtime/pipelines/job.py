"""A pipeline's job: what travels from ComfyUI's process to the workers and back, as safetensors with JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..config import XditConfig
from ..planner.run_plan import RunPlan
from .inputs import PipelineInputs

PREFIX = b"pipeline\0"
"""How a payload begins that holds a pipeline's job."""

XDIT = "xdit"
ENGINES = ("diffusers", XDIT)
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class PipelineChoice:
    """A pipeline as chosen: its `folder`, and how it is loaded and run.

    `xdit` counts with engine "xdit" only.
    """

    folder: str
    dtype: str = "auto"
    engine: str = ENGINES[0]
    xdit: XditConfig = field(default_factory=XditConfig)


@dataclass(frozen=True)
class PipelineJob:
    """One run of a pipeline. `image`: (B, H, W, C), 0 to 1, or None.

    `known`: the predictions of its first steps, if an earlier try has made them.
    """

    pipeline: PipelineChoice
    inputs: PipelineInputs
    plan: RunPlan
    image: Tensor | None = None
    known: tuple[Tensor, ...] = ()

    def to_bytes(self) -> bytes:
        """The payload."""
        said = {
            "pipeline": asdict(self.pipeline),
            "inputs": self.inputs.to_json(),
            "plan": self.plan.to_json(),
        }
        tensors = {"image": self.image.contiguous()} if self.image is not None else {}
        tensors |= {f"known {step}": prediction for step, prediction in enumerate(self.known)}
        return PREFIX + _pack(tensors, said)

    @classmethod
    def from_bytes(cls, payload: bytes) -> PipelineJob:
        """The inverse of `to_bytes`."""
        tensors, said = _unpack(payload.removeprefix(PREFIX))
        known = sum(name.startswith("known ") for name in tensors)
        pipeline = said["pipeline"]
        return cls(
            PipelineChoice(**{**pipeline, "xdit": XditConfig(**pipeline["xdit"])}),
            PipelineInputs.from_json(said["inputs"]),
            RunPlan.from_json(said["plan"]),
            tensors.get("image"),
            tuple(tensors[f"known {step}"] for step in range(known)),
        )


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made: pictures or frames (N, H, W, C), 0 to 1, or sound (B, C, T), and what belongs to it.

    `kind`: "image", "video" or "audio". `rate`: frames or samples per second; 0 if the pipeline does not tell.
    """

    kind: str
    values: Tensor
    rate: float = 0.0

    def to_bytes(self) -> bytes:
        """As bytes."""
        return _pack({"values": self.values.cpu().contiguous()}, {"kind": self.kind, "rate": self.rate})

    @classmethod
    def from_bytes(cls, data: bytes) -> PipelineResult:
        """The inverse of `to_bytes`."""
        tensors, said = _unpack(data)
        return cls(said["kind"], tensors["values"], said["rate"])


def _pack(tensors: dict[str, Tensor], said: dict[str, Any]) -> bytes:
    text = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
    return safetensors.torch.save({**tensors, "json": text})


def _unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = safetensors.torch.load(data)
    said = json.loads(tensors.pop("json").numpy().tobytes())
    return tensors, said
