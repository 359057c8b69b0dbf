"""The script that a worker process on this machine runs: reads its orders from the pipe that it inherits."""

import importlib.util
import json
import multiprocessing.connection
import os
import sys
from pathlib import Path


def main() -> None:
    """Open the pipe whose handle is the only argument, read the orders, and serve the pool."""
    on_windows = sys.platform == "win32"
    kind = multiprocessing.connection.PipeConnection if on_windows else multiprocessing.connection.Connection
    handle = int(sys.argv[1])
    if not on_windows:
        os.set_inheritable(handle, False)  # a process the worker starts must not keep the pipe open
    pipe = kind(handle)
    described = json.loads(pipe.recv_bytes())
    spec = importlib.util.spec_from_file_location("bootstrap", Path(__file__).parents[1] / "bootstrap.py")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.become_worker(described, "runtime.pool.local.pipe:WorkerPipe", pipe, described["directory"])


if __name__ == "__main__":
    main()
