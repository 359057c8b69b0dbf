"""The base class of exchanges: how the ranks of the ring axis get at each other's keys and values.

B batch, L tokens of one rank, N tokens of all, H heads, D head dim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..axis import Axis
from ..messenger import Incoming, Messenger, Outgoing

if TYPE_CHECKING:
    from ...compression.wire import Payload, Spec


@dataclass(frozen=True)
class Attention:
    """One rank's part of an attention: its queries (B, L, H, D) to the keys of all ranks of an axis."""

    q_BLHD: Tensor
    kv_BLHD: Sequence[Tensor]
    """This rank's K and V, of one dtype, which may have fewer heads than q."""
    axis: Axis
    specs: tuple[Spec, ...]
    """The message that holds the K and V (B, L, H * D) of each rank, by axis index."""
    messenger: Messenger
    function: Callable[[Tensor, Tensor], Tensor]
    """The workflow's attention of the queries to all K and V (B, N, H, D), in axis order, masked and scaled."""
    scale: float
    mask: Tensor | None = None
    """Broadcasts to (B, H, L, N), keys in axis order."""

    def outgoing(self, index: int, payload: Payload) -> Outgoing:
        """This rank's K and V, packed, as a message to axis index `index`."""
        return Outgoing(index, payload, self.specs[self.axis.index])

    def incoming(self, index: int) -> Incoming:
        """The K and V of axis index `index` as a message from there."""
        return Incoming(index, self.axis.ranks[index], self.specs[index])


class Exchange(ABC):
    """Computes attention to keys and values that lie on several ranks. One object per job and rank: it may keep state.

    A new exchange is one file in this folder that names its class in EXCHANGE. All other code that needs to know about
    an exchange (the node, warnings, the number of head chunks) reads the attributes below.
    """

    name: str
    """The name that the user chooses and that reports show."""
    tooltip: str
    """How the node describes it: a clause or two, without its name."""
    place: int = 100
    """Sort key in the node's list: the smallest first, equal ones by name."""
    keeps_function: bool = True
    """Whether the workflow's attention function does the arithmetic. False for an exchange that needs the log-sum-exp
    of partial results, which ComfyUI's functions do not return."""
    overlaps_heads: bool = False
    """Whether one head chunk can be computed while another travels; then the heads go in chunks."""

    @abstractmethod
    def attend(self, attention: Attention) -> Generator[None, None, Tensor]:
        """Attention of the rank's queries to the keys of all ranks, (B, L, H, D).

        A generator that yields while messages are under way: then other head chunks get their turn. All ranks must
        start and finish their messages in the same order.
        """
