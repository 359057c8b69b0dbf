"""What a worker finds around it: its share of the cores, no allocator that breaks NCCL, loopback and nothing else."""

import ipaddress
import os
import subprocess
import sys

import pytest
from compact_parallel.runtime.pool.local import environment as local_environment
from compact_parallel.tests.pool.support import answers, run

ALLOCATORS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


@pytest.mark.parametrize(("workers", "threads"), [(1, "12"), (3, "4"), (5, "2"), (24, "1")])
def test_cpu_workers_share_the_cores(workers, threads, monkeypatch):
    monkeypatch.setattr(local_environment, "_cores", lambda: 12)
    environment = local_environment.worker_environment("cpu", workers)
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == (threads, threads)


def test_a_worker_can_print_any_text_whatever_the_encoding_of_the_system(monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    command = [sys.executable, "-c", "print('\\u65e5\\u672c \\ud800')"]
    assert subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=local_environment.worker_environment("cpu", 1)
    ).stdout
    assert printed.decode().rstrip() == "\u65e5\u672c \\ud800"


def test_a_gpu_worker_keeps_the_users_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local_environment.worker_environment("cuda:0", 1)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize(("asked", "found"), [(None, "1"), ("0", "0")])
def test_nccl_sends_first_unless_the_user_says_otherwise(asked, found, monkeypatch):
    monkeypatch.delenv("TORCH_NCCL_HIGH_PRIORITY", raising=False)
    if asked is not None:
        monkeypatch.setenv("TORCH_NCCL_HIGH_PRIORITY", asked)
    assert local_environment.worker_environment("cuda:0", 1)["TORCH_NCCL_HIGH_PRIORITY"] == found


@pytest.mark.parametrize("name", ALLOCATORS)
def test_only_the_asynchronous_allocator_is_taken_away(name, monkeypatch):
    monkeypatch.setenv(name, "backend:cudaMallocAsync,max_split_size_mb:64,expandable_segments:True")
    assert local_environment.worker_environment("cuda:0", 1)[name] == "max_split_size_mb:64,expandable_segments:True"
    monkeypatch.setenv(name, "backend:cudaMallocAsync")
    assert name not in local_environment.worker_environment("cuda:0", 1)
    monkeypatch.setenv(name, "backend:native")
    assert local_environment.worker_environment("cuda:0", 1)[name] == "backend:native"


def test_a_real_worker(own_pool, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync,max_split_size_mb:64")
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    worker = answers(run(own_pool(1), "inspect"))[0]
    assert worker["threads"] == local_environment._cores()
    assert worker["environment"]["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
    assert worker["argv"] == ["main.py", "--cpu"]
    assert worker["environment"]["GLOO_SOCKET_IFNAME"] == "lo"


def test_nothing_listens_beyond_loopback(started):
    found = answers(run(started, "inspect"))
    listening = [address for worker in found for address in worker["listening"]]
    connected = [address for worker in found for address in worker["connected"]]
    assert listening
    assert connected
    for address, _ in listening + connected:
        assert ipaddress.ip_address(address).is_loopback
    ports = {port for _, port in listening}
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    assert all(low <= port <= high for port in ports), "the system chose the ports"


def test_the_users_interface_is_kept(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert local_environment.worker_environment("cpu", 2)["GLOO_SOCKET_IFNAME"] == "eth7"
    assert local_environment.worker_environment("cpu", 2)["PATH"] == os.environ["PATH"]
