"""Runs a pipeline's own __call__, unchanged, with components that ask a `Run` what to answer.

The pipeline is cloned for a run, and in the clone the denoisers, the scheduler and the other models are views
(views.py) whose methods ask the run. So several runs, such as the real one and replays, do not disturb each other.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .views import view_of

DENOISERS = ("transformer", "transformer_2", "unet", "prior", "controlnet")
"""The components that are evaluated at every step."""

MODEL_METHODS = ("__call__", "encode", "decode", "generate", "get_text_features", "get_image_features")
"""The methods by which a pipeline evaluates its other models."""

STEP_ARGUMENTS = ("model_output", "timestep", "sample")


class DenoiserCall(NamedTuple):
    """A call of a denoiser: the component's name, the number of calls before it in this step, module and arguments."""

    name: str
    place: int
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Denoiser = Callable[[DenoiserCall], Any]
"""Returns what a denoiser returns for a call."""


class StepCall(NamedTuple):
    """A call of scheduler.step: `scheduler` is the run's own, `bound` are the arguments, `original` the method."""

    scheduler: Any
    original: Callable[..., Any]
    bound: inspect.BoundArguments

    @property
    def model_output(self) -> Tensor:
        """The prediction after guidance, mostly shaped like `sample`."""
        return self.bound.arguments["model_output"]

    @property
    def sample(self) -> Tensor:
        """The latent (B, ...)."""
        return self.bound.arguments["sample"]

    @property
    def timestep(self) -> Any:
        """The timestep, a number or a tensor."""
        return self.bound.arguments["timestep"]

    def __call__(self, model_output: Tensor) -> Any:
        """The scheduler's step, with this prediction."""
        self.bound.arguments["model_output"] = model_output
        return self.original(*self.bound.args, **self.bound.kwargs)


class Run(ABC):
    """One run of a pipeline's __call__. `step`: calls of scheduler.step so far; `calls`: of denoisers since then."""

    def __init__(self) -> None:
        self.step = 0
        self.calls: list[DenoiserCall] = []
        self._evaluations: Counter[tuple[str, str]] = Counter()
        self._inside = False

    @abstractmethod
    def denoise(self, call: DenoiserCall) -> Any:
        """What a denoiser returns."""

    @abstractmethod
    def at_step(self, call: StepCall) -> Any:
        """What scheduler.step returns."""

    @abstractmethod
    def evaluate(self, key: tuple[str, str, int], model: Callable[[], Any]) -> Any:
        """What another model returns; `key`: its name, method and the number of such calls before."""

    def called(self, name: str, module: nn.Module, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """A pipeline calls a denoiser."""
        self.calls.append(DenoiserCall(name, len(self.calls), module, args, kwargs))
        return self.denoise(self.calls[-1])

    def stepped(self, scheduler: Callable[[], Any], original: Callable, *args: Any, **kwargs: Any) -> Any:
        """A pipeline calls scheduler.step."""
        bound = inspect.signature(original).bind(*args, **kwargs)
        result = self.at_step(StepCall(scheduler(), original, bound))
        self.step += 1
        self.calls = []
        return result

    def evaluated(self, name: str, method: str, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """A pipeline evaluates another model. What that calls of itself is a part of it."""
        if self._inside:
            return original(*args, **kwargs)
        key = (name, method, self._evaluations[name, method])
        self._evaluations[name, method] += 1
        self._inside = True
        try:
            return self.evaluate(key, partial(original, *args, **kwargs))
        finally:
            self._inside = False


class Randomness(NamedTuple):
    """The states of torch's global generators and of the pipeline's own generator (None if it has none)."""

    cpu: Tensor
    cuda: Tensor | None
    own: Tensor | None

    @classmethod
    def now(cls, device: torch.device, generator: torch.Generator | None) -> Randomness:
        """The present states."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, generator.get_state() if generator is not None else None)

    def restore(self, device: torch.device, generator: torch.Generator | None) -> None:
        """Puts the generators into these states."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)
        if generator is not None and self.own is not None:
            generator.set_state(self.own)


class Runs:
    """A pipeline with the arguments of its __call__, to be run several times from the same beginning.

    `generator`: the one among the arguments, in the state of the beginning. The scheduler of each run starts as a copy
    of the pipeline's.
    """

    def __init__(self, pipe: Any, arguments: Mapping[str, Any], device: torch.device) -> None:
        self._pipe, self._arguments, self.device = pipe, arguments, device
        generator = arguments.get("generator")
        self._beginning = Randomness.now(device, generator)
        self._scheduler = copy.deepcopy(vars(pipe.scheduler)) if has_steps(pipe) else None

    def run(self, make: Callable[[torch.Generator | None], Run]) -> Any:
        """Runs the pipeline from its beginning and returns its output; `make` gets the generator of this run."""
        arguments = dict(self._arguments)
        own = arguments.get("generator")
        if own is not None:
            own = arguments["generator"] = torch.Generator(own.device)
        self._beginning.restore(self.device, own)
        return self._clone(make(own))(**arguments)

    def _clone(self, run: Run) -> Any:
        clone = copy.copy(self._pipe)
        # Models that take turns on the device stay as they are at the end of a run, also of one that is ended early.
        shown: dict[str, Any] = {"_progress_bar_config": {"disable": True}, "maybe_free_model_hooks": lambda: None}
        for name, component in self._pipe.components.items():
            if not isinstance(component, nn.Module):
                continue
            if name in DENOISERS:
                shown[name] = view_of(component, __call__=partial(run.called, name, component))
                continue
            methods = [method for method in MODEL_METHODS if hasattr(type(component), method)]
            asked = {method: partial(run.evaluated, name, method) for method in methods}
            shown[name] = view_of(component, **asked)
        if self._scheduler is not None:
            shown["scheduler"] = scheduler = view_of(self._pipe.scheduler, step=partial(run.stepped, lambda: scheduler))
            object.__setattr__(scheduler, "__dict__", copy.deepcopy(self._scheduler))
        vars(clone).update(shown)
        return clone


def has_steps(pipe: Any) -> bool:
    """Whether the pipeline has a scheduler whose `step` takes the arguments by which its prediction can be replaced."""
    step = getattr(getattr(pipe, "scheduler", None), "step", None)
    return callable(step) and set(STEP_ARGUMENTS) <= set(inspect.signature(step).parameters)
