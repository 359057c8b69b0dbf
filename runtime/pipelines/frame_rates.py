"""The frames per second that video models were made for."""

from __future__ import annotations

RATES = {"CogVideoX": 8, "Latte": 8, "StableVideoDiffusion": 7, "Wan": 16, "LTX": 24, "HunyuanVideo": 15, "Mochi": 30}
OTHERS = 16


def frames_per_second(pipeline: str, asked: float) -> float:
    """The rate of a video by the pipeline of this class: as `asked` for, or (0) as its model was made for."""
    return asked or next((rate for name, rate in RATES.items() if pipeline.startswith(name)), OTHERS)
