"""The pool's folder for temporary files, and what people and systems that clean such folders do to it."""

import os
import shutil
import tempfile
import time

import pytest
from compact_parallel.runtime.pool.errors import JobFailed, PoolError
from compact_parallel.tests.pool.support import gone, pids, run, works


def cut_short(directory):
    os.truncate(directory / "rendezvous-0", 10)


def replace(directory):
    copy = directory / "copy"
    shutil.copy(directory / "rendezvous-0", copy)
    copy.replace(directory / "rendezvous-0")


DAMAGES = {
    "removed": shutil.rmtree,
    "emptied": lambda directory: (directory / "rendezvous-0").unlink(),
    "cut short": cut_short,
    "another file": replace,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_folder_starts_the_pool_anew(damage, started):
    before, starts, directory = pids(started), started.starts, started.store.directory
    damage(directory)
    assert works(started)
    assert gone(before)
    assert started.starts == starts + 1
    (notice,) = started.notices
    assert notice.startswith(f"The workers' folder for temporary files, {directory}, was removed or changed")
    assert started.store.directory != directory and not directory.exists()
    assert works(started)
    assert (started.starts, started.notices) == (starts + 1, ())


def test_files_beside_it_do_not_matter(started):
    """Negative control."""
    before = pids(started)
    other = started.store.directory / "a stored tensor"
    other.touch()
    assert works(started)
    other.unlink()
    assert works(started)
    assert pids(started) == before


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_the_folder_of_all_temporary_files_is_made_again(temporary, own_pool):
    temporary.mkdir()
    pool = own_pool(1)
    assert works(pool)
    shutil.rmtree(temporary)
    assert works(pool)
    assert pool.store.directory.is_dir()
    assert pool.store.directory.parent == temporary


def test_no_place_for_temporary_files_is_a_sentence(temporary, own_pool):
    temporary.touch()
    with pytest.raises(PoolError, match=r"There is no place for the workers' temporary files: .*TMPDIR") as caught:
        own_pool(1).start()
    assert str(temporary) in str(caught.value)


def test_a_folder_that_goes_in_the_middle_of_a_run_ends_it_with_a_sentence(started):
    directory, begun = started.store.directory, time.monotonic()
    with pytest.raises(JobFailed, match=r"could not connect in another arrangement .*Run it again") as caught:
        run(started, "regroup", lambda *step: shutil.rmtree(directory), seconds=2.0)
    assert "Traceback" not in str(caught.value)
    assert caught.value.kind == "RendezvousLost"
    assert time.monotonic() - begun < 20
    assert works(started)


def test_a_group_is_made_where_the_folder_stays(started):
    """Negative control."""
    run(started, "regroup", seconds=20.0)
    assert works(started)
