"""Makers of the workers' handlers, in network namespaces: a worker calls one before it joins the process group."""

from __future__ import annotations

import ctypes
import importlib
import os

import torch
from compact_parallel.runtime.pool.orders import Orders
from compact_parallel.runtime.pool.worker import Handler

from .namespaces import INTERFACE

_CLONE_NEWNET = 0x40000000


def _enter(namespace: str) -> None:
    """Moves this thread, and those it starts, into a network namespace, as `ip netns exec` does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE


def sampling_handler(orders: Orders) -> Handler:
    """The product's handler for sampling jobs, in the namespace of its rank, on one thread."""
    _enter(orders.options["namespaces"][orders.rank])
    torch.set_num_threads(1)
    return importlib.import_module("compact_parallel.runtime.comfy.run.worker_entry").sampling_handler(orders)


def attention_handler(orders: Orders) -> Handler:
    """The handler that times attention, in the namespace of its rank, on one thread."""
    _enter(orders.options["namespaces"][orders.rank])
    torch.set_num_threads(1)
    return importlib.import_module(".attention_calls", __package__).AttentionHandler(orders)
