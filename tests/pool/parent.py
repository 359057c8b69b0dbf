"""A parent to be killed: starts a pool, prints one JSON line about it, and waits. Usage: parent.py HOW

HOW: "starting", "idle", "collective" (two workers, one waits for the other), or "forked" (idle, with a
forked child that keeps all our handles open). Or one to be stopped: "impatient" (one worker, whose silence may last a
second) runs a job when it is told to on its standard input, and prints whether that worked and how often it started.
"""

import json
import os
import signal
import sys
import types
from pathlib import Path

package = types.ModuleType("compact_parallel")
package.__path__ = [str(Path(__file__).resolve().parents[2])]
sys.modules["compact_parallel"] = package

from compact_parallel.tests.pool.support import new_pool, nothing, pids, run, works  # noqa: E402


def main(how: str) -> None:
    pool = new_pool(2 if how == "collective" else 1, silence_seconds=1.0 if how == "impatient" else 60.0)

    def tell(*arguments: object, child: int | None = None) -> None:
        print(json.dumps({"pids": pids(pool), "directory": str(pool.store.directory), "child": child}), flush=True)
        signal.pause()

    if how == "starting":
        pool.start(tell)
    pool.start()
    if how == "idle":
        tell()
    if how == "impatient":
        print(json.dumps({"pids": pids(pool)}), flush=True)
        sys.stdin.readline()
        print(json.dumps({"works": works(pool), "starts": pool.starts}), flush=True)
        pool.stop()
    if how == "collective":
        run(pool, "wait_in_collective", lambda step, total, rank: tell() if rank == b"0" else nothing())
    if how == "forked":
        child = os.fork()
        if child == 0:
            signal.pause()
        tell(child=child)


main(sys.argv[1])
