"""Workers end with their parent, however it ends and whatever they are doing."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from compact_parallel.tests.pool.support import gone, wait_until

PARENT = Path(__file__).with_name("parent.py")


@pytest.mark.parametrize("how", ["starting", "collective", "forked"])
def test_workers_end_when_the_parent_is_killed(how, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, PARENT, how], stdout=subprocess.PIPE, env=environment) as parent:
        about = json.loads(parent.stdout.readline())
        try:
            assert about["pids"]
            assert not any(gone([pid]) for pid in about["pids"])
            assert list(tmp_path.iterdir()) == [Path(about["directory"])]
            parent.kill()
            parent.wait()
            wait_until(lambda: gone(about["pids"]), "the workers have noticed", 10)
            assert how != "forked" or not gone([about["child"]])
            wait_until(lambda: not list(tmp_path.iterdir()), "their directory is removed")
        finally:
            for pid in [*about["pids"], *filter(None, [about["child"]])]:
                if not gone([pid]):
                    os.kill(pid, signal.SIGKILL)


def test_a_parent_that_stood_still_does_not_blame_its_workers():
    """As after Ctrl+Z: they could not be asked, and their last answers were not read."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, PARENT, "impatient"], **pipes) as parent:
        about = json.loads(parent.stdout.readline())
        parent.send_signal(signal.SIGSTOP)
        threading.Event().wait(3)  # longer than its patience
        parent.send_signal(signal.SIGCONT)
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert json.loads(parent.stdout.readline()) == {"works": True, "starts": 1}
    assert gone(about["pids"])


def test_workers_end_when_the_parent_ends_normally(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, PARENT, "idle"], stdout=subprocess.PIPE, env=environment) as parent:
        about = json.loads(parent.stdout.readline())
        parent.send_signal(signal.SIGINT)
        parent.wait()
    wait_until(lambda: gone(about["pids"]), "the workers have noticed")
    wait_until(lambda: not list(tmp_path.iterdir()), "their directory is removed")
