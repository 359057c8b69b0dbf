"""The workers of a pool as a group: starts them, sends and receives their messages, watches and ends them."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..config import PoolConfig
from .errors import NoConnection, PoolError, Stopped, WorkerDied, WorkerSilent
from .heartbeat import Heartbeat
from .launcher import Launcher, Rendezvous, Site
from .member import END_SECONDS, Member
from .messages import Done, Failed, Message, Park, Parked, Pong, Prepare, Prepared, Ready, Renew, Renewed, Run, encode
from .orders import Orders
from .rendezvous import has_nccl
from .store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
# When a worker dies, its peers fail in their collectives. Wait this long for the death that explains a failure.
BLAME_SECONDS = 0.5
# The time limit for making new connections between the workers.
RENEW_SECONDS = 30.0
# The time limit for the first message between workers that have all joined. Cards need seconds, where they can at all.
CONNECT_SECONDS = 60.0
# A worker that does not answer for this long is stopped or hangs. Swapping, a slow disk and native calls that hold the
# interpreter delay an answer by seconds only.
SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Entry:
    """The handler the workers run ("module:attribute" inside the pack), its options and their command line."""

    handler: str
    command_line: tuple[str, ...]
    options: dict


def _places(device: str, devices: Sequence[str]) -> Iterator[int]:
    return (rank for rank, other in enumerate(devices) if other == device)


class WorkerGroup:
    """The workers, one per device; no members while none run.

    `busy`: the ranks that have not answered the last message yet. `stopping`: the threads that are ending the workers
    on purpose. `link`: what the workers measured at their last start. `notice`: why they use gloo and not nccl, if
    nccl did not start.
    """

    def __init__(
        self,
        config: PoolConfig,
        devices: tuple[str, ...],
        entry: Entry,
        launcher: Launcher,
        changed: Callable[[], None],
        silence_seconds: float,
    ) -> None:
        """`changed` is called, in any thread, when a worker is ready, stops answering, answers again or ends."""
        self.backend = config.resolve_backend(devices, has_nccl())
        self.notice = ""
        self.members: list[Member] = []
        self.link: dict | None = None
        self.busy: set[int] = set()
        self.stopping: set[int] = set()
        self._config = config
        self._devices = devices
        self._entry = entry
        self._launcher = launcher
        self._changed = changed
        self._silence_seconds = silence_seconds
        self._events: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._heartbeat = Heartbeat(self.world, changed)
        self._site: Site | None = None
        self._rendezvous: Rendezvous | None = None

    @property
    def world(self) -> int:
        """The number of workers, running or not."""
        return len(self._devices)

    @property
    def store(self) -> Store | None:
        """The tensors that the pool and its workers share; None while none run."""
        return self._site.store if self._site is not None else None

    def launch(self) -> None:
        """Start the workers; call `await_ready` next. Raises PoolError if there is no place for their files."""
        self._site = self._launcher.open(self._devices)
        self._rendezvous = self._site.rendezvous()
        events = self._events = queue.SimpleQueue()
        heartbeat = self._heartbeat = Heartbeat(self.world, self._changed)

        def deliver(rank: int, message: Message | None) -> None:
            if message is not None:
                heartbeat.heard(rank)
            if not isinstance(message, Pong):
                events.put((rank, message))

        self.busy = set(range(self.world))
        beside = {card: tuple(_places(card, self._devices)) for card in self._devices if card != "cpu"}
        for rank, device in enumerate(self._devices):
            orders = Orders(
                rank=rank,
                world=self.world,
                device=device,
                backend=self.backend,
                rendezvous=self._rendezvous.url,
                store=self._site.store.address,
                handler=self._entry.handler,
                connect_seconds=min(CONNECT_SECONDS, self._config.start_timeout_s / 2),
                command_line=self._entry.command_line,
                log_level=log.getEffectiveLevel(),
                options=self._entry.options,
                beside=beside.get(device, ()),
                turns=max(map(len, beside.values()), default=1),
            )
            self.members.append(Member(orders, self._site.start(orders, deliver)))
        heartbeat.start([member.handle for member in self.members])
        self._changed()

    def await_ready(self, check_interrupt: Callable[[], None]) -> None:
        """Wait until all workers are ready. Raises PoolError or what `check_interrupt` raises, and ends no worker."""
        deadline = time.monotonic() + self._config.start_timeout_s
        while self.busy:
            check_interrupt()
            for member in self.members:
                if member.ended:
                    raise self.death(member.rank)
            if time.monotonic() > deadline:
                raise PoolError(
                    f"start_timeout_s: {self.late()} did not start within {self._config.start_timeout_s:g} s; "
                    f"raise start_timeout_s or see the log.\n{self.members[min(self.busy)].handle.log_tail()}"
                )
            match self._take(POLL_SECONDS):  # a silent worker is shown but no error: start_timeout_s limits the start
                case rank, None:
                    raise self.death(rank)
                case rank, Failed() as failed:
                    raise self.blame(rank, failed)
                case rank, Ready(link=link):
                    self.link = link
                    self.set_state("idle", rank)
                    self._changed()
        self._rendezvous.met()

    def fall_back(self, error: PoolError) -> bool:
        """After a failed start: take gloo for the next launches, until `retry_nccl`, if nccl may be to blame.

        It may if "auto" has chosen it and the workers could not connect or one ended. Returns False if not.
        """
        mended = isinstance(error, NoConnection | WorkerDied)
        if not mended or self.backend != "nccl" or self._config.backend != "auto":
            return False
        self.end()
        sentence = str(error).strip().partition("\n")[0]
        why = sentence.rpartition("; ")[0] or sentence  # without the way out
        self.backend = "gloo"
        self.notice = (
            f"The workers use gloo, which is slower between cards, because they did not start with nccl ({why}). "
            "Restart them in the tab Parallel to have nccl tried again."
        )
        log.warning("%s", self.notice)
        return True

    def retry_nccl(self) -> None:
        """Let the next launch try nccl again, if it was replaced."""
        if self.notice:
            self.backend, self.notice = "nccl", ""

    def fault(self) -> str:
        """A sentence saying why these idle workers cannot take the next run; "" if they can."""
        for member in self.members:
            if member.ended:
                return f"{member.name.capitalize()} had ended."
        if (silent := self._silent(self._silence_seconds)) is not None:
            return f"{silent.name.capitalize()} had not answered for {self._heartbeat.silent_seconds(silent.rank):g} s."
        return self._rendezvous.fault()

    def hear(self, seconds: float = POLL_SECONDS) -> tuple[int, Message | None] | None:
        """Returns (rank, message) for the next message; the message is None if the worker of that rank is gone.

        Returns None if no message comes within `seconds`. Raises WorkerSilent if a worker no longer answers.
        """
        heard = self._take(seconds)
        if heard is None and (error := self.silence(self._silence_seconds)) is not None:
            raise error
        return heard

    def _take(self, seconds: float) -> tuple[int, Message | None] | None:
        try:
            rank, message = self._events.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(message, Ready | Prepared | Done | Failed | Renewed | Parked):
            self.busy.discard(rank)
        match message:
            case Ready(about=about) | Done(about=about) | Failed(about=about):
                self.members[rank].about = dict(about)
            case Parked(device_bytes=held):
                self.members[rank].about["device_bytes"] = held
        return rank, message

    def tell_all(self, message: Message) -> None:
        """Send one message to every worker."""
        self.tell({member.rank: message for member in self.members})

    def tell(self, messages: Mapping[int, Message]) -> None:
        """Send each rank its message. Those that are to answer are `busy` until they do."""
        for rank, message in messages.items():
            if isinstance(message, Prepare | Run | Renew | Park):
                self.busy.add(rank)
            self.members[rank].handle.send(encode(message))

    def renew(self, check_interrupt: Callable[[], None]) -> bool:
        """Replace the workers' process groups, which drops messages a job left in flight. No worker may be in a job.

        Returns False if it fails, for example if a device no longer works or the workers' folder is gone. Raises what
        `check_interrupt` raises.
        """
        rendezvous = self._site.rendezvous()
        if rendezvous.fault():
            return False
        self.tell_all(Renew(rendezvous.url))
        deadline = time.monotonic() + RENEW_SECONDS
        while self.busy and time.monotonic() < deadline:
            check_interrupt()
            match self.hear():
                case rank, None:
                    raise self.death(rank)
                case _, Failed():
                    return False
        if self.busy:
            return False
        rendezvous.met()
        self._rendezvous = rendezvous
        return True

    def statuses(self) -> list[dict]:
        """Each worker's entry in the pool's status; `silent_seconds` is 0 for a short silence (see Heartbeat)."""
        told = self._heartbeat.told_seconds
        return [{**member.status(), "silent_seconds": told(member.rank)} for member in list(self.members)]

    def set_state(self, state: str, rank: int | None = None) -> None:
        """Set the state that the status shows for one worker, or for all."""
        for member in self.members if rank is None else [self.members[rank]]:
            member.state = state

    def late(self) -> str:
        """The names of the workers that are busy."""
        return ", ".join(self.members[rank].name for rank in sorted(self.busy))

    def kill(self) -> None:
        """End all workers without waiting. Any thread may call it."""
        for member in list(self.members):
            member.handle.kill()

    def end(self) -> None:
        """End all workers, wait until they are gone (END_SECONDS at most), and close their site."""
        self._heartbeat.end()
        self.kill()
        deadline = time.monotonic() + END_SECONDS
        for member in self.members:
            member.end(deadline - time.monotonic())
        self.members = []
        self.busy = set()
        if self._site is not None:
            self._site.close()
            self._site = None

    def failure(self, rank: int, failed: Failed) -> PoolError:
        """The error for a Failed message from a worker."""
        if failed.kind == NoConnection.__name__:
            return NoConnection(failed.error)
        return self.members[rank].failure(failed)

    def blame(self, rank: int, failed: Failed) -> PoolError:
        """The error to report for a failure: the death of another worker if that caused it, else the failure itself."""
        deadline = time.monotonic() + BLAME_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            match self.hear(left):
                case other, None:
                    return self.death(other)
        return self.failure(rank, failed)

    def death(self, rank: int) -> PoolError:
        """The error for a worker that is gone: it died, or the pool is being stopped."""
        if self.stopping:
            return Stopped(f"The parallel pool {self._config.name or 'default'} was stopped while it was in use.")
        return self.members[rank].death()

    def silence(self, seconds: float) -> WorkerSilent | None:
        """The error for a worker that has not answered for `seconds`; None if all have, or they are being stopped."""
        member = self._silent(seconds)
        if member is None or self.stopping:
            return None
        return member.silence(self._heartbeat.silent_seconds(member.rank))

    def _silent(self, seconds: float) -> Member | None:
        """The worker that has not answered for the longest time, if that is `seconds` or more."""
        silence = self._heartbeat.silent_seconds
        longest = max(self.members, key=lambda member: silence(member.rank), default=None)
        return longest if longest is not None and silence(longest.rank) >= seconds else None
