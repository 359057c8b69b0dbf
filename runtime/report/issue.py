"""A run's report as text for an issue: with versions and devices, without the machine's paths."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATH = "<path>"
MOST_VALUES = 60
"""More values of a list, one per model call, are left out."""

_REST = r"[^\s'\"`,;:()<>|]*"
_PATHS = re.compile(
    rf"file://{_REST}"  # an address
    rf"|(?<![\w:/.~])[A-Za-z]:[\\/]{_REST}|\\\\\w{_REST}"  # Windows: a drive or another computer
    rf"|(?<![\w/.])~?/[^\s'\"`,;:()<>|/]+/{_REST}"  # two folders at least: "/s" is not a path
)


def issue_text(report: dict[str, Any] | None, about: dict[str, Any], folders: Iterable[Path | str] = ()) -> str:
    """Markdown with `about` and the report, if there is one, as JSON.

    Paths become PATH: those in `folders`, in the user's and the system's folders, and whatever else looks like one.
    """
    known = {str(folder) for folder in (*folders, Path.home(), tempfile.gettempdir(), sys.prefix, Path.cwd())}
    longest_first = sorted((folder for folder in known if len(folder) > 1), key=len, reverse=True)
    inside = re.compile("|".join(re.escape(folder) + _REST for folder in longest_first))
    shown = _told({**about, "report": report}, inside)
    return f"```json\n{json.dumps(shown, indent=1, ensure_ascii=False)}\n```\n"


def _told(value: Any, inside: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return _PATHS.sub(PATH, inside.sub(PATH, value))
    if isinstance(value, dict):
        return {_told(key, inside): _told(part, inside) for key, part in value.items()}
    if isinstance(value, list | tuple):
        more = [f"and {len(value) - MOST_VALUES} more"] if len(value) > MOST_VALUES else []
        return [_told(part, inside) for part in value[:MOST_VALUES]] + more
    return value
