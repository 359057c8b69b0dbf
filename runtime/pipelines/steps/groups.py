"""The step axis for pipelines: a call that is evaluated alone is evaluated in the pipeline's own loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...parallel.step.parametrization import Call
from ...parallel.step.step_groups import StepGroups


class PipelineGroups(StepGroups):
    """The Evaluator of a pipeline's run (see rounds.Evaluator).

    The loop calls `begin_alone` before it evaluates a call; `extra` of that call then holds the "prediction".
    """

    def serial(self, index: int, call: Call, extra: dict[str, Any]) -> Tensor:
        """See rounds.Evaluator: the prediction that all ranks have just evaluated together."""
        self.end_alone()
        return extra["prediction"]
