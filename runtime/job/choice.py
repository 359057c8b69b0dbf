"""Chooses degrees and Step Reuse for a run, from the settings, the workflow and earlier runs."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..attention.errors import Unsupported
from ..config import ParallelConfig, StepReuseConfig, chosen_step_reuse
from ..parallel.mesh import Degrees
from ..planner.experience import TRIES, experience
from ..pool.errors import PoolError, Stopped
from ..pool.pool import Pool
from .asking import Asked, asked_by
from .checks import NothingToShare, degrees_for, unmet
from .devices import hidden_cards
from .fallback import told
from .fingerprint import way_of_asking, workflow_of
from .found import found_in
from .look_ahead import LookAhead, limited, look_ahead_for

ONE_DEVICE = "There is one device, so ComfyUI samples as always."
NO_GUESS = (
    "Step Reuse was not used: no guess was accepted when this workflow ran last. A larger tolerance accepts more and "
    "changes the picture more; else unplug Step Reuse."
)
# Failures that were wanted, or cost no more than the start of a run. NotReturned is raised at the end and costs all of
# it.
CHEAP = ("Refused", "Cancelled")


@dataclass(frozen=True)
class Choice:
    """The choice for one run. `config` is as set; `asking` and `workflow` are the keys of the run in `experience`."""

    config: ParallelConfig
    ahead: LookAhead
    degrees: Degrees
    asked: Asked
    asking: Hashable
    workflow: Hashable

    def expect_failure(self, pool: Pool) -> None:
        """Raises Unsupported if the workers failed at this repeatedly and on_unsupported is "run on one device".

        With "error" the user decides whether to try again.
        """
        why = experience().expected_failure(self.workflow, pool.starts)
        if why and self.config.on_unsupported != "error":
            raise Unsupported(
                f"The workers were not asked again, as they failed {TRIES} times in a row or more; restart them in the "
                f"tab Parallel to have it tried. Last time: {why}"
            )

    @contextlib.contextmanager
    def noting_failures(self, pool: Pool) -> Iterator[None]:
        """Records an error that ends the block, if it is a failure of the workers."""
        try:
            yield
        except PoolError as error:
            if not isinstance(error, Stopped) and getattr(error, "kind", "") not in CHEAP:
                experience().failed(self.workflow, pool.starts, told(error))
            raise

    def learn(self, guider: Any, arguments: Any, ledgers: Sequence[dict[str, Any]]) -> list[str]:
        """Records what the run has shown about its calls. Returns the warnings for its report."""
        config = replace(self.config, step_reuse=self.ahead.config)
        found = found_in(ledgers, config, self.degrees, guider, arguments.noise)
        experience().learn(self.asking, found.conditions)
        experience().ran(self.workflow, found.busy, found.idle)
        wanting = unmet(self.config, self.degrees, guider, arguments.noise, found.conditions)
        return [*wanting, *self.ahead.warnings, *found.warnings]


def choose(config: ParallelConfig, world: int, guider: Any, arguments: Any) -> Choice:
    """The choice for a run on `world` workers. Raises ConfigError, Unsupported or NothingToShare."""
    if world == 1 and not chosen_step_reuse(config).enabled:
        raise NothingToShare(f"{ONE_DEVICE} {hidden_cards()}".rstrip())
    auto = config.strategy.mode == "auto"
    ahead = look_ahead_for(config, guider, arguments)
    asking = way_of_asking(guider, arguments.sampler)
    workflow = (config, workflow_of(guider, arguments, ahead.config))
    idle = experience().idle(workflow)
    asked, seen = asked_by(guider, arguments), experience().conditions(asking)
    if asked.most is None and seen is not None:
        idle |= {"cfg"} if seen < min(2, asked.usual) else set()
        asked = replace(asked, usual=seen)
    if auto and "step" in idle:
        ahead = LookAhead(StepReuseConfig(), ahead.kind, warnings=(NO_GUESS,))
    if world == 1 and not ahead.config.enabled:
        raise NothingToShare(" ".join((ONE_DEVICE, *ahead.warnings, hidden_cards())).rstrip())
    reach = ahead.config.look_ahead if ahead.config.enabled else 1
    degrees = degrees_for(config, world, guider, arguments.noise, look_ahead=reach, asked=asked, idle=idle)
    return Choice(config, limited(ahead, degrees, auto=auto), degrees, asked, asking, workflow)
