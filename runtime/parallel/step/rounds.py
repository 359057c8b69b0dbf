"""Rounds: several of a sampler's model calls are evaluated at once.

A round begins when the sampler makes a call that is not evaluated yet. The latents of the calls after it are guessed,
all calls are evaluated side by side, and the sampler's next calls are answered with the results, up to the first guess
that was too far off. See "Communication-Efficient Diffusion Denoising Parallelization via Reuse-then-Predict Mechanism"
(ParaStep), arXiv 2505.14741; here the sampler keeps its own path, and guesses are extrapolated and checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from operator import itemgetter
from typing import Any, Protocol

import torch
from torch import Tensor

from ...config import StepReuseConfig
from .extrapolate import Extrapolation
from .parametrization import Call, Space, moved
from .replay import Answering, Predict, along_the_line
from .rises import rises_of
from .samplers import LINE, Kind

SAME_PATH = 1e-3
"""How far a replay may be from the sampler's own path by rounding, as a fraction of the latents' standard deviation."""

MOST_ALONE = 4
"""The most calls evaluated one by one after repeated rejections, before the next attempt at a round."""

LOG_ON_DEVICE = 1 << 30
"""Up to this many bytes, the predictions for replays stay on the device; if all would take more, in host memory."""

NOISY = 2
"""The factor on the tolerance for a sampler that adds noise (measured: euler_ancestral and dpmpp_2m_sde on the trained
model reject everything at 1; at this value they stay far closer than with fewer steps)."""


class Evaluator(Protocol):
    """Evaluates model calls; the ranks of a run agree through it. `capacity`: the most calls a round may have now."""

    capacity: int

    def serial(self, index: int, call: Call, extra: dict) -> Tensor:
        """The prediction of call `index`, shaped like its x, evaluated by all devices together."""

    def together(self, index: int, call: Call, extra: dict) -> Call:
        """`call`, the first of a round, as all ranks agree to see it."""

    def side_by_side(self, index: int, calls: Sequence[Call], extra: dict) -> list[Tensor]:
        """The predictions of call `index` and of the guessed ones after it, the same tensors on every rank."""

    def decide(self, accepted: int, finite: bool) -> int:
        """How many calls of a round are accepted: rank 0's number; also sets `capacity` to rank 0's.

        `finite`: whether the first prediction of the round was free of NaN and Inf.
        """

    def stop(self) -> None:
        """From the next round on, evaluate no call ahead."""

    def warn(self, sentence: str) -> None:
        """Pass on a sentence for the user."""


class Path(Protocol):
    """The path that a sampler takes, which can be gone again from its start with given predictions.

    `sigmas`: its schedule. `nbytes`: bytes of one latent.
    """

    @property
    def sigmas(self) -> list[float]: ...

    @property
    def nbytes(self) -> int: ...

    def rehearse(self) -> list[float]:
        """The noise levels of all calls that the sampler will make."""

    def look_ahead(self, denoised: list[Tensor], levels: Sequence[float], predict: Predict) -> list[Call]:
        """The next calls, at `levels`, after those answered with `denoised`, if the model then says `predict`."""


@dataclass(frozen=True)
class _Evaluated:
    call: Call
    denoised: Tensor


class Rounds:
    """One run of a sampler with look-ahead. `accepted` lists the number of calls accepted in each round."""

    def __init__(
        self,
        config: StepReuseConfig,
        kind: Kind,
        evaluator: Evaluator,
        replay: Path,
        space: Space,
        given: Sequence[Tensor] = (),
    ) -> None:
        """`given`: the predictions of the first calls, which are known from a run that did not come to its end."""
        self.accepted: list[int] = []
        self.levels = replay.rehearse()
        rises = rises_of(replay.sigmas, self.levels)
        if rises.calls:
            evaluator.warn(
                f"Step Reuse began its warm-up after {rises.calls} of {len(self.levels)} calls: up to there the "
                "schedule rises again, where a small error may grow."
            )
        self._warmup = rises.calls + config.warmup_calls
        self._tolerance = config.tolerance * (NOISY if kind.noisy else 1) / rises.growth
        self._config = config
        self._kind = kind
        self._evaluator = evaluator
        self._replay = replay
        self._space = space
        self._given = given
        self._extrapolation = Extrapolation(config.predictor, self._space, reach=config.look_ahead)
        self._denoised: list[Tensor] = []
        self._waiting: list[_Evaluated] = []
        self._log_fits = len(self.levels) * replay.nbytes <= LOG_ON_DEVICE
        self._calls = 0
        self._alone = 0
        self._rejections = 0
        self._rejected: list[_Evaluated] = []
        self._rejected_from = 0
        self._same_path: list[Tensor] = []
        """For each replay of this round, on the device: whether it came to the latent where the sampler is."""

    def model(self, model: Any) -> Answering:
        """The model to give to the sampler: `model`, answered from rounds."""
        return Answering(model, self.answer)

    @property
    def next_alone(self) -> bool:
        """Whether the sampler's next call is evaluated, by itself: it is not known, and begins no round of several."""
        return not self._waiting and self._calls >= len(self._given) and self._ahead() < 2

    def answer(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        """The prediction for the sampler's next call: latent `x` (B, ...) at noise levels `sigma` (B,)."""
        call = Call(x, sigma, self._level(sigma))
        if not self._waiting:
            known = self._calls < len(self._given)
            self._waiting = [_Evaluated(call, self._known(x))] if known else self._round(call, extra)
            self.accepted.append(len(self._waiting))
        denoised = self._said(self._waiting, call, 0)
        evaluated = self._waiting.pop(0)
        self._extrapolation.commit(evaluated.call, evaluated.denoised)
        if self._kind.way != LINE:
            self._denoised.append(denoised if self._log_fits else denoised.to("cpu"))
        self._calls += 1
        return denoised

    def _known(self, like: Tensor) -> Tensor:
        return self._given[self._calls].to(like.device, like.dtype)

    def _level(self, sigma: Tensor) -> float:
        """The noise level of the sampler's call: the foreseen one, for which nobody waits."""
        return self.levels[self._calls] if self._calls < len(self.levels) else float(sigma.reshape(-1)[0])

    def _round(self, call: Call, extra: dict) -> list[_Evaluated]:
        ahead = self._ahead()
        if ahead < 2:
            self._alone = max(0, self._alone - 1)
            return [_Evaluated(call, self._evaluator.serial(self._calls, call, extra))]
        call = self._evaluator.together(self._calls, call, extra)
        calls = self._follow(call, ahead, self._expected())
        predictions = self._evaluator.side_by_side(self._calls, calls, extra)
        evaluated = [_Evaluated(*pair) for pair in zip(calls, predictions)]
        acceptable, finite = self._acceptable(evaluated)
        accepted = self._evaluator.decide(acceptable, finite[0])
        # One rejection may be chance; after more in a row, more and more calls are evaluated alone.
        self._rejections = self._rejections + 1 if accepted == 1 else 0
        self._alone = min(max(0, self._rejections - 1), MOST_ALONE)
        self._rejected = [guess for guess, _ in takewhile(itemgetter(1), list(zip(evaluated, finite))[accepted:])]
        self._rejected_from = self._calls + accepted
        return evaluated[:accepted]

    def _ahead(self) -> int:
        """The calls that a round beginning now would have; at most 1: it is evaluated alone."""
        if self._calls < self._warmup or self._alone:
            return 1
        return min(self._evaluator.capacity, len(self.levels) - self._config.tail_calls - self._calls)

    def _expected(self) -> Predict:
        """The predictions expected in a round: those of guesses rejected in the last round, then extrapolated ones."""
        rejected = self._rejected[self._calls - self._rejected_from :]
        later = self._extrapolation.after([(old.call, old.denoised) for old in rejected])

        def expected(call: Call, place: int) -> Tensor:
            if place < len(rejected):
                return self._said(rejected, call, place)
            return later.expected(call, place - len(rejected))

        return expected

    def _follow(self, call: Call, count: int, predict: Predict) -> list[Call]:
        """`call` and the `count` - 1 calls after it, if the model's predictions were those of `predict`."""
        if self._kind.way == LINE:
            return along_the_line(call, self.levels[self._calls : self._calls + count], predict)
        levels = self.levels[self._calls : self._calls + count]
        here, *ahead = self._replay.look_ahead(self._denoised, levels, predict)
        self._same_path.append(_close(here.x, call.x, SAME_PATH * self._space.deviation(call.level)))
        return [call, *ahead]

    def _acceptable(self, evaluated: list[_Evaluated]) -> tuple[int, list[bool]]:
        """How many calls, from the first, were evaluated close enough to where the sampler will be, and whether the
        prediction of each is finite. The host waits for the device once.

        A guessed latent x~ is close to the sampler's latent x if RMS(x - x~) / f <= tolerance * RMS(D) in every batch
        entry; f is the standard deviation of latents at this noise level, and an error shrinks like f until the end.
        The first guess that is not close is rejected, with those after it. The round's first call is no guess. For a
        sampler that adds noise the tolerance is NOISY times as large: its noise covers earlier errors. On a schedule
        that rises again an error may grow: rounds begin after the last rise, and the tolerance is divided by the growth
        (see rises.py).
        """
        close = []
        if self._tolerance:
            there = self._follow(evaluated[0].call, len(evaluated), partial(self._said, evaluated))
            for guess, reached in zip(evaluated[1:], there[1:]):
                denoised = self._space.denoised(guess.call, guess.denoised)
                allowed = self._tolerance * _rms(denoised) * self._space.deviation(guess.call.level)
                close.append(_close(reached.x, guess.call.x, allowed))
        finite = [torch.isfinite(guess.denoised).all() for guess in evaluated]
        finite, close, same_path = _read(finite, close, self._same_path)
        self._same_path.clear()
        if not all(same_path):
            self._evaluator.stop()
            self._evaluator.warn(
                "Step Reuse stopped: run again from its start, this sampler came to another latent, so the coming ones "
                "cannot be foreseen; the rest of the steps ran one after the other."
            )
        good = takewhile(all, zip(finite[1:], close or finite[1:]))
        return 1 + sum(1 for _ in good), finite

    def _said(self, evaluated: Sequence[_Evaluated], call: Call, place: int) -> Tensor:
        """The prediction evaluated at this place of the round, corrected for the latent of `call`."""
        return moved(self._space, evaluated[place].denoised, evaluated[place].call, call)


def _rms(x: Tensor) -> Tensor:
    """The root mean square of every batch entry, (B,)."""
    return x.float().flatten(1).square().mean(1).sqrt()


def _close(x: Tensor, y: Tensor, allowed: Tensor | float) -> Tensor:
    """Whether the RMS of x - y is at most `allowed` in every batch entry; False if it is NaN. On the device."""
    return (_rms(x - y) <= allowed).all()


def _read(*groups: list[Tensor]) -> list[list[bool]]:
    """Groups of yes and no on the device, as the host sees them."""
    read = iter(torch.stack([x for group in groups for x in group]).tolist())
    return [[next(read) for _ in group] for group in groups]
