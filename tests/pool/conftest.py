"""The pools that the tests of this folder share: a pool that a test has broken starts again by itself."""

import pytest
from compact_parallel.tests.pool.support import new_pool


@pytest.fixture(scope="session")
def pool():
    """Two workers."""
    shared = new_pool(2)
    yield shared
    shared.stop()


@pytest.fixture
def started(pool):
    """The same, started."""
    pool.start()
    return pool


@pytest.fixture(scope="session")
def single_pool():
    """One worker, which starts in half the time: for what needs no peer."""
    shared = new_pool(1, name="single")
    yield shared
    shared.stop()


@pytest.fixture
def single(single_pool):
    """The same, started."""
    single_pool.start()
    return single_pool


@pytest.fixture
def own_pool():
    """Makes pools that only one test uses: own_pool(workers, ...), as new_pool."""
    made = []

    def make(*arguments, **keywords):
        made.append(new_pool(*arguments, **keywords))
        return made[-1]

    yield make
    for own in made:
        own.stop()
