"""Network namespaces joined by a switch, every port limited to one rate in both directions. Linux, root, iproute2.

Each worker gets a namespace with one interface, `eth0`; its other end is a port of a bridge in another namespace, so
nothing outside of these namespaces changes. A token bucket (tbf) on both ends limits the bytes that a worker sends and
receives, as the port of an Ethernet switch does. TCP uses reno: bbr, where it is the default, does not fill a tbf.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress

PREFIX = "compact-parallel"
RATES = {"unlimited": None, "1gbit": "1gbit burst 128kb", "100mbit": "100mbit burst 16kb"}
"""The choices of `--rates`, in the syntax of `tc`. A burst is a millisecond: with less, a busy processor that serves
the bucket late loses some of the rate; with more, small messages would take no time."""
INTERFACE = "eth0"
_SHAPE = "tbf rate {} latency 50ms"
_NAME = re.compile(rf"^{PREFIX}-(\d+)-")


class CannotShape(RuntimeError):
    """This machine cannot make shaped links; the message says why."""


def _run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotShape(f"{command}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


class Links:
    """A context manager that creates `namespaces` for `world` workers and removes them. Raises CannotShape."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._hub = f"{PREFIX}-{os.getpid()}-switch"
        self.namespaces = [f"{PREFIX}-{os.getpid()}-{rank}" for rank in range(world)]

    def __enter__(self) -> Links:
        if not hasattr(os, "geteuid") or os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
            raise CannotShape("Shaped links need Linux, root, and the commands ip and tc (package iproute2).")
        _remove_left_over()
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl+C must not stop the removal
        for name in (*self.namespaces, self._hub):
            _remove(name)
        signal.signal(signal.SIGINT, before)

    def limit(self, rate: str | None) -> None:
        """Limits every port, in both directions, to one of the values of RATES; None lifts the limit."""
        for rank, name in enumerate(self.namespaces):
            for where, interface in ((name, INTERFACE), (self._hub, f"port{rank}")):
                if rate is not None:
                    _run(f"tc -n {where} qdisc replace dev {interface} root {_SHAPE.format(rate)}")
                elif " tbf " in f" {_run(f'tc -n {where} qdisc show dev {interface}')} ":
                    _run(f"tc -n {where} qdisc del dev {interface} root")

    def _make(self) -> None:
        for name in (self._hub, *self.namespaces):
            _run(f"ip netns add {name}")
            _run(f"ip netns exec {name} sysctl -q -w net.ipv6.conf.all.disable_ipv6=1")
            _run(f"ip netns exec {name} sysctl -q -w net.ipv4.tcp_congestion_control=reno")
            _run(f"ip -n {name} link set lo up")
        _run(f"ip -n {self._hub} link add switch type bridge")
        _run(f"ip -n {self._hub} link set switch up")
        for rank, name in enumerate(self.namespaces):
            _run(f"ip link add {INTERFACE} netns {name} type veth peer name port{rank} netns {self._hub}")
            _run(f"ip -n {self._hub} link set port{rank} master switch up")
            _run(f"ip -n {name} address add 10.77.0.{rank + 1}/24 dev {INTERFACE}")
            _run(f"ip -n {name} link set {INTERFACE} up")


def _remove(name: str) -> None:
    with suppress(CannotShape):  # it was never created
        _run(f"ip netns delete {name}")


def _remove_left_over() -> None:
    """Removes the namespaces of processes that were killed."""
    for line in _run("ip netns list").splitlines():
        owner = _NAME.match(line)
        if owner is not None and not os.path.exists(f"/proc/{owner[1]}"):
            _remove(line.split()[0])
