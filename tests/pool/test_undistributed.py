"""The pack loads with a PyTorch that was built without torch.distributed, as some for Windows are."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# torch.distributed asks for these attributes to find out whether it was built.
LOAD = """
import importlib.abc, sys
class Undistributed(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch.distributed" and "whole" not in sys.argv:
            for part in ("_c10d_init", "_rpc_init", "_dist_autograd_init"):
                delattr(sys.modules["torch._C"], part)
        return None
sys.meta_path.insert(0, Undistributed())
import conftest, torch, torch.distributed
from compact_parallel.runtime.pool.rendezvous import has_nccl
import compact_parallel.runtime.pool.worker, compact_parallel.runtime.pool.registry
import compact_parallel.runtime.planner.run_plan, compact_parallel.runtime.parallel.step.step_groups
print(torch.distributed.is_available(), has_nccl())
"""


def said(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    command = [sys.executable, "-c", LOAD, *arguments]
    return subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_pack_loads_without_distributed():
    assert said() == "False False\n"


def test_with_distributed_it_is_found():
    assert said("whole").startswith("True")
