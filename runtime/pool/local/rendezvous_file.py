"""The file through which the workers of one machine find each other."""

from __future__ import annotations

from pathlib import Path


class RendezvousFile:
    """A Rendezvous: is it still the file that the workers connected through?"""

    def __init__(self, path: Path) -> None:
        self.url = f"file://{path}"
        self._path = path
        self._met: tuple[int, int] | None = None

    def met(self) -> None:
        """Record that all workers have connected through this file."""
        self._met = self._seen()

    def fault(self) -> str:
        """A sentence if its folder is gone or, after `met`, if it is another file or has been truncated; else ""."""
        return "" if self._intact() else (
            f"The workers' folder for temporary files, {self._path.parent}, was removed or changed from outside."
        )  # fmt: skip

    def _intact(self) -> bool:
        if self._met is None:
            return self._path.parent.is_dir()
        seen = self._seen()
        return seen is not None and seen[0] == self._met[0] and seen[1] >= self._met[1]

    def _seen(self) -> tuple[int, int] | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_ino, about.st_size
