"""The core tests of the pool with another Launcher: whatever starts the workers, the pool is the same."""

import pytest
from compact_parallel.tests.pool.agent_launcher import AgentLauncher
from compact_parallel.tests.pool.support import new_pool
from compact_parallel.tests.pool.test_failures import (  # noqa: F401
    test_a_job_that_calls_exit_is_an_error_with_its_traceback,
    test_a_worker_killed_during_a_job_is_named,
    test_a_worker_killed_while_idle_costs_a_restart_only,
    test_a_worker_that_ends_by_itself_leaves_its_last_words,
    test_an_error_on_one_rank_is_reported_while_the_other_waits_for_it,
    test_an_error_that_every_rank_meets_leaves_the_workers_warm_and_nothing_on_its_way,
    test_stop_in_the_middle_of_a_job,
    watch,
)
from compact_parallel.tests.pool.test_jobs import (  # noqa: F401
    test_a_job_that_one_rank_cannot_rebuild_is_abandoned_by_all,
    test_a_large_payload_arrives_whole,
    test_an_error_that_all_ranks_raise_leaves_the_pool_usable,
    test_park_gives_the_memory_back_when_idle_only,
    test_progress_arrives_in_order_in_the_thread_that_runs,
    test_two_jobs_in_a_row_use_the_same_processes,
    test_what_check_interrupt_raises_cancels_the_job,
)
from compact_parallel.tests.pool.test_silence import (  # noqa: F401
    test_a_cancel_while_a_worker_is_stopped,
    test_a_worker_in_a_long_call_finishes_it_and_stays_warm,
)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    return AgentLauncher(tmp_path_factory.mktemp("agents"))


@pytest.fixture(scope="module")
def pool(launcher):
    shared = new_pool(2, name="agent", launcher=launcher)
    yield shared
    shared.stop()


@pytest.fixture(scope="module")
def single_pool(launcher):
    shared = new_pool(1, name="single agent", launcher=launcher)
    yield shared
    shared.stop()
