"""What runs on every rank of the pipeline benchmark: pipelines with Step Reuse, one step group per rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import tiny_pipelines
import torch
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.agreement import Agreement
from compact_parallel.runtime.pipelines.loading import load
from compact_parallel.runtime.pipelines.memory import PipelineMemory
from compact_parallel.runtime.pipelines.outputs import first_of
from compact_parallel.runtime.pipelines.running import Runs
from compact_parallel.runtime.pipelines.steps.groups import PipelineGroups
from compact_parallel.runtime.pipelines.truth import AheadTruth
from compact_parallel.runtime.report.ledger import Ledger

CPU = torch.device("cpu")
GUIDANCE = 3.0


Count = dict[str, Any]
"""What a run took: "accepted", the steps accepted in each round, "evaluations" of this rank, and "warnings"."""


def counted(rank: int, world: int, folder: Path, cases: Sequence[tuple[str, int, int, int]]) -> list[Count]:
    """Runs tiny random pipelines, (name, steps, warm-up, tail) each; every guess is accepted."""
    counts = []
    for name, steps, warmup, tail in cases:
        pipe = diffusers.DiffusionPipeline.from_pretrained(tiny_pipelines.saved(name, folder))
        pipe.set_progress_bar_config(disable=True)
        given = {**tiny_pipelines.arguments(name), "num_inference_steps": steps, "output_type": "latent"}
        reuse = StepReuseConfig("look_ahead", world, warmup_calls=warmup, tail_calls=tail, tolerance=0.0)
        counts.append(in_rounds(rank, world, pipe, given, reuse, seed=0)[1])
    return counts


def trained(
    rank: int, world: int, folder: Path, prompt: str, size: int, seed: int, runs: Sequence[tuple[int, bool]]
) -> list[tuple[Any, Count]]:
    """The pictures (1, 3, size, size) of the demo pipeline for runs of (steps, whether with Step Reuse), the defaults
    of Step Reuse with one step group per rank; None for the picture on other ranks than 0."""
    pipe = load(folder, "float32", CPU)
    pipe.set_progress_bar_config(disable=True)
    made = []
    for steps, reused in runs:
        given = demo_arguments(prompt, size, steps)
        given["output_type"] = "latent" if rank else "pt"
        reuse = StepReuseConfig("look_ahead", world if reused else 1)
        output, count = in_rounds(rank, world, pipe, given, reuse, seed)
        made.append((None if rank else first_of(output), count))
    return made


def demo_arguments(prompt: str, size: int, steps: int) -> dict[str, Any]:
    """What the demo pipeline is called with."""
    return {
        "prompt": prompt, "negative_prompt": "any", "true_cfg_scale": GUIDANCE, "max_sequence_length": 8,
        "width": size, "height": size, "num_inference_steps": steps,
    }  # fmt: skip


def in_rounds(
    rank: int, world: int, pipe: Any, given: dict[str, Any], reuse: StepReuseConfig, seed: int
) -> tuple[Any, Count]:
    """What the pipeline returns, and what it took."""
    torch.manual_seed(seed)
    runs = Runs(pipe, {**given, "generator": torch.Generator().manual_seed(seed)}, CPU)
    ledger = Ledger()
    agreement = Agreement(PipelineMemory(CPU), ledger, lambda: False)
    axis = Axis("step", tuple(range(world)), rank)
    kept: list[AheadTruth] = []

    def nothing(*_: Any) -> None:
        pass

    def groups(evaluate_ahead: Any) -> PipelineGroups:
        around = (axis, agreement, nothing, nothing, nothing, ledger)
        return PipelineGroups(evaluate_ahead, *around, look_ahead=reuse.look_ahead, batches=False)

    def make(generator: torch.Generator | None) -> AheadTruth:
        kept.append(AheadTruth(_evaluate, agreement, ledger, nothing, runs, reuse, groups, generator))
        return kept[0]

    output = runs.run(make)
    told = ledger.to_json()
    evaluations = sum(record["evaluations"] for record in told["calls"])
    return output, {"accepted": kept[0].accepted, "evaluations": evaluations, "warnings": told["warnings"]}


def _evaluate(call: Any) -> Any:
    return call.module(*call.args, **call.kwargs)
