"""Runs of xDiT's versions of tiny pipelines on one rank, next to the pipelines alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.config import CompressionConfig, XditConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.pipelines.xdit.engine import xdit_pipeline
from compact_parallel.runtime.report.ledger import Ledger
from tiny_pipelines import arguments, saved, stir

STEPS = 6
RAW = CompressionConfig(mode="off")
TWO_BIT = CompressionConfig(mode="codec", codec="2bit")


class Runs:
    """Tiny pipelines on one rank, each loaded once. Their folders must be there."""

    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.rank, self.world, self.folder = rank, world, folder
        self._pipes: dict[str, Any] = {}
        self._alone: dict[str, torch.Tensor] = {}
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()

    def pipe(self, name: str) -> Any:
        """A loaded pipeline."""
        if name not in self._pipes:
            pipe = self._pipes[name] = diffusers.DiffusionPipeline.from_pretrained(saved(name, self.folder))
            pipe.set_progress_bar_config(disable=True)
            if name == "sd3":
                pipe.transformer = _without_second_attention(pipe.transformer)
        return self._pipes[name]

    def call(self, name: str, **changes: Any) -> dict[str, Any]:
        """The arguments of a run: latents out, a seed in."""
        call = arguments(name) | {"num_inference_steps": STEPS, "output_type": "latent"}
        if name == "sd3":
            del call["max_sequence_length"]  # which xDiT's does not know
        return call | {"generator": torch.Generator().manual_seed(7)} | changes

    def alone(self, name: str, **changes: Any) -> torch.Tensor:
        """What the pipeline gives without xDiT, computed now."""
        return torch.as_tensor(self.pipe(name)(**self.call(name, **changes))[0])

    def reference(self, name: str) -> torch.Tensor:
        """What the pipeline gave without xDiT at the first time."""
        if name not in self._alone:
            self._alone[name] = self.alone(name)
        return self._alone[name]

    @contextmanager
    def set_up(
        self,
        name: str,
        settings: XditConfig,
        degrees: Degrees,
        compression: CompressionConfig | None = None,
        on_step: Callable[[int], None] | None = None,
        **changes: Any,
    ) -> Iterator[tuple[Callable[[], Any], Ledger]]:
        """A function that runs the divided pipeline, and the ledger. It gives None on ranks other than 0."""
        ledger = Ledger()
        wire = None if compression is None else make_wire(compression, ledger, STEPS)
        call, where = self.call(name, **changes), saved(name, self.folder)
        common = {"rank": self.rank, "world": self.world, "wire": wire, "ledger": ledger, "on_step": on_step}
        with xdit_pipeline(self.pipe(name), where, settings, degrees, call, **common) as run:

            def once() -> Any:
                output = run(**self.call(name, **changes))
                return None if output is None else torch.as_tensor(output[0])

            yield once, ledger

    def divided(
        self, name: str, settings: XditConfig, degrees: Degrees, *args: Any, **kwargs: Any
    ) -> tuple[Any, Ledger]:
        """One run of `set_up`."""
        with self.set_up(name, settings, degrees, *args, **kwargs) as (once, ledger):
            return once(), ledger

    def error(self, name: str, settings: XditConfig, degrees: Degrees, *args: Any, **kwargs: Any) -> float | None:
        """How far `divided` is from the pipeline alone; None on ranks other than 0."""
        reference = self.reference(name)
        output, _ = self.divided(name, settings, degrees, *args, **kwargs)
        return None if output is None else difference(output, reference)


def _without_second_attention(model: torch.nn.Module) -> torch.nn.Module:
    """A model of SD3 as it was before 3.5 medium, which xDiT does not know."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = type(model).from_config({**model.config, "dual_attention_layers": ()}).eval()
        stir(plain)
    return plain


def difference(x: torch.Tensor, reference: torch.Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float((x - reference).abs().max() / reference.abs().max())
