"""A training loop on a wall-clock budget: the learning rate always ends annealed, and a stopped run resumes."""

import copy
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

Loss = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""(module, step, generator) -> (scalar to minimise on one share of a batch, figures to log)."""


@dataclass
class Budget:
    """How long to train and how the learning rate moves; progress runs from 0 to 1 with the clock, not with steps."""

    minutes: float
    warmup_steps: int = 100
    floor: float = 0.01
    """Learning rate at the end, as a share of its peak."""

    def rate(self, progress: float, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine."""
        cosine = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return cosine * min(1.0, (step + 1) / self.warmup_steps)


def _update_average(average: nn.Module, module: nn.Module, step: int, decay: float) -> None:
    weight = 1 - min(decay, (step + 1) / (step + 10))
    for slow, fast in zip(average.parameters(), module.parameters()):
        slow.data.lerp_(fast.data, weight)


class Replicas:
    """Shares a batch among threads, each with one core and a replica of the module on the same weights.

    On a machine that others use too this beats splitting every operation over the cores: it waits for the slowest core
    once a step, not at every operation.
    """

    def __init__(self, module: nn.Module, loss: Loss, count: int) -> None:
        self.modules = [module] + [copy.deepcopy(module) for _ in range(count - 1)]
        for replica in self.modules[1:]:
            for shared, parameter in zip(module.parameters(), replica.parameters()):
                parameter.data = shared.data
        self.loss = loss
        self.threads = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def backward(self, step: int, generator: torch.Generator) -> dict[str, float]:
        """Leaves the mean gradient over the replicas in the module and returns the mean figures."""
        seeds = torch.randint(2**62, (len(self.modules),), generator=generator).tolist()

        def work(module: nn.Module, seed: int) -> dict[str, float]:
            value, figures = self.loss(module, step, torch.Generator().manual_seed(seed))
            (value / len(self.modules)).backward()
            return {"loss": value.item(), **figures}

        results = list(self.threads.map(work, self.modules, seeds))
        for replica in self.modules[1:]:
            for parameter, other in zip(self.modules[0].parameters(), replica.parameters()):
                parameter.grad += other.grad
                other.grad = None
        return {name: sum(figures[name] for figures in results) / len(results) for name in results[0]}


def fit(
    module: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    loss: Loss,
    budget: Budget,
    checkpoint: Path,
    *,
    threads: int = 2,
    decay: float = 0.998,
    seed: int = 0,
    save_every: float = 120.0,
) -> nn.Module:
    """Trains `module` in place until the budget is spent and returns the running average of its weights.

    Args:
        threads: how many replicas work side by side; a batch is `threads` shares.
        checkpoint: resumed from if it exists; carries the seconds already spent.
        save_every: seconds between checkpoints.
    """
    optimizers = list(optimizers)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(module).requires_grad_(False)
    step, spent, smooth = 0, 0.0, {}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        generator.set_state(state["generator"])
        step, spent = state["step"], state["spent"]

    def save() -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "module": module.state_dict(), "average": average.state_dict(), "step": step, "spent": spent,
            "optimizers": [optimizer.state_dict() for optimizer in optimizers], "generator": generator.get_state(),
        }  # fmt: skip
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    replicas = Replicas(module, loss, threads)
    started, saved = time.monotonic() - spent, time.monotonic()
    with tqdm(initial=step, mininterval=10, unit="step") as bar:
        while (spent := time.monotonic() - started) < 60 * budget.minutes:
            rate = budget.rate(spent / (60 * budget.minutes), step)
            for optimizer, peak in zip(optimizers, peaks):
                for group, value in zip(optimizer.param_groups, peak):
                    group["lr"] = value * rate
            figures = replicas.backward(step, generator)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            list(replicas.threads.map(lambda optimizer: optimizer.step(), optimizers))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            _update_average(average, module, step, decay)
            for name, figure in figures.items():
                smooth[name] = figure if name not in smooth else 0.98 * smooth[name] + 0.02 * figure
            step += 1
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in smooth.items()}, refresh=False)
            if time.monotonic() - saved > save_every:
                save()
                saved = time.monotonic()
    save()
    return average
