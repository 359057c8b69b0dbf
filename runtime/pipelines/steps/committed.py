"""The state of a pipeline's run after its last finished step, from which a replay goes on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ..running import Randomness


class Committed(NamedTuple):
    """The run after `steps` steps: what the last one returned, the scheduler's state and the random states.

    `placeholder`: a result of a step in which only shapes and types matter.
    """

    steps: int
    result: Any
    placeholder: Any
    scheduler: dict[str, Any]
    random: Randomness

    def restore(self, scheduler: Any, device: torch.device, generator: torch.Generator | None) -> Any:
        """Puts a replay's scheduler and generators into this state. Returns what the last step returned."""
        vars(scheduler).update(shallow(self.scheduler))
        self.random.restore(device, generator)
        return cloned(self.result)


def committed(
    steps: int, result: Any, scheduler: Any, device: torch.device, generator: torch.Generator | None
) -> Committed:
    """The state now, after `steps` steps."""
    own = cloned(result)
    return Committed(steps, own, cloned(result), shallow(vars(scheduler)), Randomness.now(device, generator))


def shallow(state: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's state with copies of its lists: schedulers put new tensors into them, but change no tensor."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}


def cloned(value: Any) -> Any:
    """Copies of all tensors in what scheduler.step returned: a tuple or an output class."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value)(**{name: cloned(part) for name, part in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(cloned(part) for part in value)
    return value
