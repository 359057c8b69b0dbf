"""The exceptions with which attention and sharding refuse a model or an input, and sentence ends for their messages.

The messages are for the user: each names a setting that avoids the refusal.
"""

from __future__ import annotations

WAY_OUT = (
    'set on_unsupported of Parallel Model to "run on one device". '
    "With CFG above 1, two workers with cfg_degree 2 need no such split."
)
"""The end of a message about something that cannot be split. It holds for token and row sharding, whether the user or
`auto` chose the degrees."""

OTHER_DEGREES = (
    "cfg_degree, data_degree and step_degree do without ulysses_degree and ring_degree; else set on_unsupported of "
    'Parallel Model to "run on one device".'
)
"""The end of a message about a model that differs from the one its plan was written for."""


class Unsupported(ValueError):
    """This model or input cannot be split this way; the message is one sentence with the setting that avoids it."""


class MetAlone(Unsupported):
    """Raised where this rank does not know whether the other ranks fail, too: they may still wait for it."""
