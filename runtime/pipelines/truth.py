"""The real run of a pipeline: its denoisers are evaluated by all ranks together, or in rounds of several steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..config import StepReuseConfig
from ..parallel.agreement import Agreement
from ..parallel.step.rounds import Rounds
from ..parallel.step.samplers import REPLAY, Kind
from ..report.ledger import MODEL, Ledger
from .denoisers import first_of
from .rows import latent_in, with_latent
from .running import Denoiser, DenoiserCall, Run, Runs, StepCall
from .steps.batching import same_arguments
from .steps.committed import committed
from .steps.groups import PipelineGroups
from .steps.noise import Predictions, prediction_of
from .steps.path import PipelinePath
from .steps.replays import Memo
from .templates import Templates

SAME_INPUT = 1e-3
"""How far the inputs of a replay's denoisers may be from the real ones by rounding, relative to their norm."""

OTHER_REPLAY = (
    "Step Reuse did nothing: run again from its start, this pipeline came to another input of its model, so its coming "
    "steps cannot be foreseen; they ran one after the other."
)
OTHER_SHAPE = (
    "Step Reuse did nothing: this pipeline's model also predicts a variance, which is not exchanged between steps; "
    "they ran one after the other."
)
NO_STEPS = "Step Reuse did nothing: this pipeline's scheduler has no step that could be answered ahead."


class Watcher(Protocol):
    """Is told of every step before it is done."""

    def __call__(self, step: int, call: StepCall, prediction: Tensor) -> None:
        """Step `step` (from 0) goes on from `call` with this prediction."""


class Truth(Run):
    """A run in which all ranks evaluate every call of the denoisers together.

    `known`: the predictions of its first steps, from a try that did not come to its end. Of these steps only the first
    is evaluated again, to learn what its denoisers return.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        agreement: Agreement,
        ledger: Ledger,
        watch: Watcher,
        known: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        self._denoiser, self._agreement, self._ledger, self._watch = denoiser, agreement, ledger, watch
        self._known, self._templates = known, Templates()

    def denoise(self, call: DenoiserCall) -> Any:
        """See `Run.denoise`. Raises Cancelled, NotFinite or Diverged, on all ranks."""
        if 0 < self.step < len(self._known):
            return self._templates.of(call)
        output = self._evaluated(call)
        self._templates.learn(call, output)
        return output

    def _evaluated(self, call: DenoiserCall) -> Any:
        call = self._agreed(call)
        with self._ledger.phase(MODEL):
            output = self._denoiser(call)
            prediction = first_of(output)
            if isinstance(prediction, Tensor):
                self._agreement.seen(prediction)
        return output

    def at_step(self, call: StepCall) -> Any:
        """See `Run.at_step`."""
        return self._tell(call, self._prediction(call))

    def _prediction(self, call: StepCall) -> Tensor:
        like = call.model_output
        return self._known[self.step].to(like.device, like.dtype) if self.step < len(self._known) else like

    def evaluate(self, key: tuple[str, str, int], model: Callable[[], Any]) -> Any:
        """See `Run.evaluate`."""
        return model()

    def _agreed(self, call: DenoiserCall) -> DenoiserCall:
        """The call with the latent that all ranks agree on."""
        latent = latent_in(call)
        if latent is None:
            return call
        time = call.kwargs.get("timestep", call.args[1] if len(call.args) > 1 else 0.0)
        agreed, _, _ = self._agreement.agree(self.step, latent, torch.as_tensor(time, device=latent.device))
        return call if agreed is latent else with_latent(call, agreed)

    def _tell(self, call: StepCall, prediction: Tensor) -> Any:
        self._watch(self.step, call, prediction)
        return call(prediction)


class AheadTruth(Truth):
    """A run that evaluates several steps at once, in rounds. `accepted`: the steps accepted in each round."""

    def __init__(
        self,
        denoiser: Denoiser,
        agreement: Agreement,
        ledger: Ledger,
        watch: Watcher,
        runs: Runs,
        config: StepReuseConfig,
        groups: Callable[[Callable], PipelineGroups],
        generator: torch.Generator | None,
        known: Sequence[Tensor] = (),
    ) -> None:
        """`groups` makes the Evaluator from the function that evaluates steps ahead."""
        super().__init__(denoiser, agreement, ledger, watch, known)
        # The second step must be evaluated in this run's own loop, to be compared with a replay.
        self._config = replace(config, warmup_calls=max(2, config.warmup_calls))
        self._runs, self._generator = runs, generator
        self._memo = Memo()
        self._path: PipelinePath | None = None
        self._rounds: Rounds | None = None
        self._groups = groups(self._evaluate_ahead)

    @property
    def accepted(self) -> list[int]:
        """The steps accepted in each round."""
        return self._rounds.accepted if self._rounds is not None else [1] * self.step

    def denoise(self, call: DenoiserCall) -> Any:
        """See `Run.denoise`: a placeholder if the step is answered from a round."""
        if self._rounds is not None and not self._rounds.next_alone:
            return self._templates.of(call)
        if call.place == 0:
            self._groups.begin_alone(latent_in(call))
        return super().denoise(call)

    def at_step(self, call: StepCall) -> Any:
        """See `Run.at_step`."""
        if self.step == 0:
            self._foresee(call)
        if self.step == 1 and self._rounds is not None:
            self._compare()
        if self._rounds is None:
            return super().at_step(call)
        levels = self._rounds.levels
        level = levels[min(self.step, len(levels) - 1)]
        sigma = call.sample.new_full(call.sample.shape[:1], level, dtype=torch.float64)
        prediction = self._rounds.answer(call.sample, sigma, prediction=self._prediction(call))
        result = self._tell(call, prediction)
        self._path.committed = committed(self.step + 1, result, call.scheduler, self._runs.device, self._generator)
        return result

    def evaluate(self, key: tuple[str, str, int], model: Callable[[], Any]) -> Any:
        """See `Run.evaluate`: remembered for the replays, if it came before the first step."""
        output = model()
        if self._path is None:
            self._memo[key] = output
        return output

    def _foresee(self, call: StepCall) -> None:
        if call.model_output.shape != call.sample.shape:
            self._ledger.warn(OTHER_SHAPE)
            return
        kind = prediction_of(call.scheduler)
        path = PipelinePath(self._runs, call.sample, kind, self._templates, self._memo)
        path.rehearse()
        space = Predictions(kind, path.noises, noisy=path.noisy)
        self._path = path
        self._rounds = Rounds(self._config, Kind(REPLAY, noisy=path.noisy), self._groups, path, space, self._known)

    def _compare(self) -> None:
        """Compares a replay with this run; where they differ, the steps run one after the other."""
        foreseen = self._path.calls_of(self.step)
        same = len(foreseen) == len(self.calls) and all(
            same_arguments(own, other, SAME_INPUT) for own, other in zip(self.calls, foreseen)
        )
        verdict = torch.tensor([int(same)])
        dist.all_reduce(verdict, dist.ReduceOp.MIN)
        if not int(verdict):
            self._ledger.warn(OTHER_REPLAY)
            self._rounds = None

    def _evaluate_ahead(self, index: int, calls: list[tuple[int, Any]], extra: dict) -> list[Tensor]:
        return self._path.evaluate(index, [place for place, _ in calls], self._denoiser)
