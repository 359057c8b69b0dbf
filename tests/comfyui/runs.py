"""Runs on two workers, one for each capability, and what became of them.

As a script it prints them as JSON, with the ComfyUI at COMFYUI_PATH in this process and in the workers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import conftest  # noqa: F401 - what makes the pack and ComfyUI known

import controls
from compact_parallel.runtime.config import ON_UNSUPPORTED
from sampling import NOTHING_PASSES, ksampler, model, parallel, pool, relative_error, report


def run(on_unsupported=ON_UNSUPPORTED[0], *, steps=4, cfg=3.0, batch=1, control=False, **strategy) -> dict:
    """{"refused"}, or {"error"} against one device and what the report says."""
    choices = {"steps": steps, "cfg": cfg, "batch": batch}
    if control:
        positive, negative = controls.steered((controls.flux_xlabs(), 1.0, 0.0, 1.0))
        choices |= {"positive": positive, "negative": negative}
    expected = ksampler(model("flux"), "flux", **choices)
    try:
        samples = ksampler(parallel(model("flux"), 2, on_unsupported=on_unsupported, **strategy), "flux", **choices)
    except Exception as error:
        return {"refused": str(error)}
    told = report()
    return {"error": relative_error(samples, expected)} | {
        name: told[name] for name in ("strategy", "warnings", "fallbacks", "bytes_sent", "workers")
    }


RUNS = {
    "cfg": {"cfg_degree": 2},
    "cfg or one device": {"on_unsupported": ON_UNSUPPORTED[1], "cfg_degree": 2},
    "data": {"batch": 2, "data_degree": 2},
    "tokens": {"ring_degree": 2},
    "tokens with control": {"control": True, "ring_degree": 2},
    "step": {"steps": 8, "cfg": 1.0, "step_degree": 2, "step_reuse": NOTHING_PASSES},
    "auto": {},
    "auto, one condition": {"cfg": 1.0},
}


def outcomes() -> dict[str, dict]:
    """What became of every run."""
    try:
        return {name: run(**choices) for name, choices in RUNS.items()}
    finally:
        pool(2).stop()


if __name__ == "__main__":
    print(json.dumps(outcomes()))
