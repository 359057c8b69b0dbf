"""The script that starts a worker process. It reads its orders from the pipe it inherits and imports the pack by path.

The pack is imported under the parent's module name, and its `__init__.py` is not run: classes and torch ops have the
same names in parent and worker, and no node is registered twice.
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
        os.set_inheritable(handle, False)  # a process the worker starts must not keep the pipe open
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
