"""What newer versions of ComfyUI compile, and replay without its exchanges, is evaluated eagerly in a worker."""

from __future__ import annotations

from types import SimpleNamespace

from comfy.cli_args import args
from compact_parallel.runtime.comfy.run.worker_entry import evaluate_eagerly


def test_a_worker_compiles_nothing():
    newer = SimpleNamespace(disable_cuda_graphs=False, disable_comfy_compiler=False, disable_mmap=False)
    evaluate_eagerly(newer)
    assert newer == SimpleNamespace(disable_cuda_graphs=True, disable_comfy_compiler=True, disable_mmap=False)


def test_options_that_are_not_there_are_not_invented():
    before = dict(vars(args))
    evaluate_eagerly(args)
    known = {"disable_cuda_graphs", "disable_comfy_compiler"} & before.keys()
    assert vars(args) == before | dict.fromkeys(known, True)
