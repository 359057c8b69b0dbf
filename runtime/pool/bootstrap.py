"""The script a worker process starts with. It knows the pack by path only; its orders come over the inherited pipe.

The pack gets the parent's module name without its `__init__.py` being run, so that classes and torch ops made there
and here are the same by name, and no node is registered twice.
"""

import importlib
import json
import multiprocessing.connection
import os
import sys
import types


def main() -> None:
    """Open the pipe whose handle is the only argument, read the orders, and run the worker inside the pack."""
    on_windows = sys.platform == "win32"
    kind = multiprocessing.connection.PipeConnection if on_windows else multiprocessing.connection.Connection
    handle = int(sys.argv[1])
    if not on_windows:
        os.set_inheritable(handle, False)  # what the worker starts must not hold the pipe open after it
    connection = kind(handle)
    orders = json.loads(connection.recv_bytes())
    sys.path[:] = orders["sys_path"]
    sys.argv[:] = orders["argv"]
    package = types.ModuleType(orders["package"])
    package.__path__ = [orders["root"]]
    sys.modules[orders["package"]] = package
    worker = importlib.import_module(orders["package"] + ".runtime.pool.worker")
    worker.main(connection, worker.Orders(**orders["worker"]))


if __name__ == "__main__":
    main()
