"""Runs a job on the pool and, where a worker dies or falls silent, resumes it from its log on a pool started anew."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import Tensor

from ..pool.errors import WorkerDied
from ..pool.job_run import JobResult
from ..pool.pool import Pool
from .prediction_log import PredictionLog

log = logging.getLogger(__name__)

TRIES_WITHOUT_PROGRESS = 2
"""After so many deaths in a row without a new prediction in between, the cause is the job's, and the run ends."""


def run_to_its_end(
    pool: Pool,
    pack: Callable[[Sequence[Tensor]], bytes],
    on_progress: Callable[[int, int, bytes], None],
    check_interrupt: Callable[[], None],
    *,
    resumable: bool,
) -> tuple[JobResult, int]:
    """The result of a job, and how many of its calls were answered from the log.

    `pack` makes the job's payload from the predictions of its first calls, which are known; what it puts into the
    pool's store goes with the pool. Raises as `Pool.run` does.
    """
    with PredictionLog() as known:
        tries, resumed = 0, 0
        while True:
            before = len(known)
            try:
                with pool.reserve(check_interrupt):
                    return pool.run(pack(known.predictions()), on_progress, check_interrupt, known.add), resumed
            except WorkerDied as error:
                tries = tries + 1 if len(known) == before else 0
                if not resumable or tries == TRIES_WITHOUT_PROGRESS:
                    raise
                resumed = len(known)
                log.warning("%s The run is resumed after %d calls.", str(error).partition("\n")[0], resumed)
