"""The exception by which attention and sharding refuse a model or an input; its message is for the user."""

from __future__ import annotations

WAY_OUT = (
    'set on_unsupported of Parallel Model to "run on one device". '
    "With CFG above 1, two workers with cfg_degree 2 need no such split."
)
"""The end of a message about what cannot be split. It is right for tokens and rows, whoever chose the degrees."""

OTHER_DEGREES = (
    "cfg_degree, data_degree and step_degree do without ulysses_degree and ring_degree; else set on_unsupported of "
    'Parallel Model to "run on one device".'
)
"""The end of a message about a model that is not as the pack knows it."""


class Unsupported(ValueError):
    """This model or input cannot be split this way; the message is one sentence with the setting that avoids it."""


class MetAlone(Unsupported):
    """This rank cannot go on, and does not know whether the other ranks have failed in the same way."""
