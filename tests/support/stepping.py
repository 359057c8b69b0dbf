"""Runs step parallelism in this process: rounds on one device, and a model whose predictions are known exactly.

Legend: B batch entries, K components of a mixture, C values of a latent.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.comfy.brownian_noise import RememberedNoise
from compact_parallel.runtime.comfy.wrappers.step_sampling import StepParallel
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.agreement import Agreement
from compact_parallel.runtime.parallel.step.parametrization import Call, Process, space_for
from compact_parallel.runtime.parallel.step.replay import Replay
from compact_parallel.runtime.parallel.step.rounds import Rounds
from compact_parallel.runtime.parallel.step.samplers import Kind, kind_of
from compact_parallel.runtime.parallel.step.step_groups import StepGroups, as_one_batch
from compact_parallel.runtime.report.ledger import Ledger
from torch import Tensor


class OneDevice:
    """An Evaluator (see rounds) that evaluates the calls of a round one after the other, with the pool's results."""

    def __init__(self, model, capacity: int) -> None:
        self.capacity = capacity
        self.warnings: list[str] = []
        self._model = model

    def serial(self, index: int, call: Call, extra: dict) -> Tensor:
        return self._model(call.x, call.sigma, **extra)

    def together(self, index: int, call: Call, extra: dict) -> Call:
        return call

    def side_by_side(self, index: int, calls: Sequence[Call], extra: dict) -> list[Tensor]:
        return [self._model(call.x, call.sigma, **extra) for call in calls]

    def decide(self, accepted: int, finite: bool) -> int:
        return accepted

    def stop(self) -> None:
        self.capacity = 1

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """The noise levels of flow models."""


class Eps(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """The noise levels of Stable Diffusion."""


class Mixture:
    """The exact posterior mean E[x0 | x] of a Gaussian mixture, as samplers see a model.

    `flow`: x = (1 - sigma) x0 + sigma n, else x = x0 + sigma n. The means of the components are drawn with `seed`.
    """

    SHAPE = (4, 8, 8)

    def __init__(self, *, flow: bool, seed: int, components: int = 8, deviation: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)
        values = torch.Size(self.SHAPE).numel()
        self._mean_KC = torch.randn(components, values, generator=generator, dtype=torch.float64)
        self._deviation = deviation
        self.flow = flow
        self.calls = 0
        sampling = Flow() if flow else Eps()
        if flow:
            sampling.set_parameters(shift=3.0)
        self.model_sampling = sampling
        patcher = types.SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = types.SimpleNamespace(
            inner_model=types.SimpleNamespace(model_sampling=sampling), model_patcher=patcher
        )

    def __call__(self, x: Tensor, sigma: Tensor, **extra) -> Tensor:
        self.calls += 1
        x_BC, sigma_B1 = x.flatten(1).double(), sigma.view(-1, 1).double()
        scale_B1 = 1 - sigma_B1 if self.flow else torch.ones_like(sigma_B1)
        variance_B1 = (scale_B1 * self._deviation) ** 2 + sigma_B1**2
        away_BKC = x_BC[:, None] - scale_B1[:, None] * self._mean_KC
        weight_BK = torch.softmax(-away_BKC.square().sum(-1) / (2 * variance_B1), dim=1)
        gain_B1 = scale_B1 * self._deviation**2 / variance_B1
        mean_BKC = self._mean_KC + gain_B1[:, None] * away_BKC
        return (weight_BK[..., None] * mean_BKC).sum(1).view(x.shape).to(x.dtype)

    def sigmas(self, steps: int) -> Tensor:
        """(steps + 1,) noise levels: schedule "simple" for flow, else "karras"."""
        return comfy.samplers.calculate_sigmas(self.model_sampling, "simple" if self.flow else "karras", steps)

    def noise(self, seed: int, steps: int, batch: int = 4) -> Tensor:
        """The start of sampling (B, 4, 8, 8)."""
        noise = torch.randn(batch, *self.SHAPE, generator=torch.Generator().manual_seed(1000 + seed))
        return noise if self.flow else noise * self.sigmas(steps)[0]


@torch.inference_mode()
def sample_mixture(
    model: Mixture,
    sampler: str,
    steps: int,
    seed: int,
    reuse: StepReuseConfig | None = None,
    *,
    batch: int = 4,
    kind: Kind | None = None,
) -> tuple[Tensor, list[int]]:
    """The samples (B, 4, 8, 8) of ComfyUI's sampler, and the number of calls of each round; serial without `reuse`."""
    chosen = comfy.samplers.sampler_object(sampler)
    x, sigmas, extra = model.noise(seed, steps, batch), model.sigmas(steps), {"seed": seed}
    torch.manual_seed(seed)
    before = model.calls
    if reuse is None:
        samples = chosen.sampler_function(model, x, sigmas, extra_args=extra, callback=None, disable=True)
        return samples, [1] * (model.calls - before)
    replay = Replay(chosen.sampler_function, model, x, sigmas, extra, {}, RememberedNoise().in_use)
    kind = kind or kind_of(chosen)
    space = space_for(Process(model.flow), noisy=kind.noisy)
    rounds = Rounds(reuse, kind, OneDevice(model, reuse.look_ahead), replay, space)
    return replay.run(rounds.model(model), None, True), rounds.accepted


class PlentyOfMemory:
    """The memory of a rank (see agreement.Memory) that is never short of it."""

    def free(self, device: torch.device) -> int:
        return 1 << 40

    def pretend(self, free: int) -> None:
        pass

    def holds(self, shape: Sequence[int], device: torch.device) -> bool:
        return True


def _nothing(*_: object) -> None:
    pass


@torch.inference_mode()
def sample_in_groups(axis: Axis, sampler: str, steps: int, card: Any) -> tuple[Tensor, list[int]]:
    """The samples of a mixture by step groups on the axis, on a card that can `put` tensors, and the calls by round."""
    model, ledger = Mixture(flow=True, seed=1), Ledger()
    chosen, x, sigmas = comfy.samplers.sampler_object(sampler), model.noise(1, steps, 2), model.sigmas(steps)
    model._mean_KC = card.put(model._mean_KC)
    card.put(model.model_sampling)
    agreement = Agreement(PlentyOfMemory(), ledger, lambda: False)
    around = (_nothing, _nothing, _nothing)
    groups = StepGroups(as_one_batch(model), axis, agreement, *around, ledger, look_ahead=2 * axis.size, batches=True)
    replay = Replay(chosen.sampler_function, model, card.put(x), card.put(sigmas), {"seed": 1}, {})
    torch.manual_seed(1)
    kind = kind_of(chosen)
    space = space_for(Process(flow=True), noisy=kind.noisy)
    rounds = Rounds(StepReuseConfig(mode="look_ahead"), kind, groups, replay, space)
    samples = replay.run(rounds.model(model), None, True)
    agreement.end()
    return samples, rounds.accepted


def in_rounds(patcher, reuse: StepReuseConfig):
    """The MODEL that samples in rounds in this process, and the wrapper that records the calls of each round."""
    wrapper = StepParallel(reuse, lambda model: OneDevice(model, reuse.look_ahead))
    clone = patcher.clone()
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "stepping", wrapper)
    return clone, wrapper
