"""The one exception of attention and sharding that a user is meant to read."""

from __future__ import annotations


class Unsupported(ValueError):
    """This model or input cannot be split this way; the message is one sentence with the setting that avoids it."""
