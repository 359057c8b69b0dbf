"""Names messages, so that both ends, and the next call, find the stream of each again."""

from __future__ import annotations

from collections import Counter


class MessageNames:
    """The message names of one call of a model."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def unique(self, path: str) -> str:
        """A name for this run of a module: unique within the call, and the same in every call."""
        self._used[path] += 1
        return path if self._used[path] == 1 else f"{path}, run {self._used[path]}"
