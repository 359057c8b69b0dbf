"""A finished run's report as English text: headline, traffic and a summary of a few lines.

The short texts that can be translated are in wording.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from . import self_check
from .ledger import BITS_UNCOMPRESSED
from .self_check import SelfCheck

_PREFIXES = ("", "k", "M", "G", "T")
_MAX_DEVICES = 4


def format_bytes(nbytes: float) -> str:
    """A number of bytes with at most three significant digits: "3.4 MB". 1 kB is 1000 bytes."""
    power = 0
    while nbytes >= 999.5 and power < len(_PREFIXES) - 1:
        nbytes, power = nbytes / 1000, power + 1
    digits = 0 if power == 0 or nbytes >= 99.95 else 1
    return f"{nbytes:.{digits}f} {_PREFIXES[power]}B"


def format_seconds(seconds: float) -> str:
    """Seconds with a sensible number of digits: "0.04 s", "6.4 s", "75 s"."""
    return f"{seconds:.{0 if seconds >= 59.5 else 1 if seconds >= 0.95 else 2}f} s"


def plural(count: int, noun: str) -> str:
    """A count with its noun: "1 worker", "2 workers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_devices(devices: Sequence[str]) -> str:
    """Devices in order, equal ones counted, long lists shortened: "cpu x 2", "cuda:0, cuda:1", "cuda:0 ... cuda:7"."""
    names = [device if count == 1 else f"{device} x {count}" for device, count in Counter(devices).items()]
    return ", ".join(names) if len(names) <= _MAX_DEVICES else f"{names[0]} ... {names[-1]}"


def headline(report: dict[str, Any]) -> str:
    """One line with the model, the devices and the seconds. A run without the workers has no count of model calls."""
    if report["fallbacks"]:
        where = f"one device ({format_devices(report['devices'])}), without the workers"
        return f"{report['model']} on {where}: {format_seconds(report['sampling_seconds'])}"
    return (
        f"{report['model']} on {plural(report['workers'], 'worker')} ({format_devices(report['devices'])}): "
        f"{plural(report['calls'], 'model call')} in {format_seconds(report['sampling_seconds'])}"
    )


def traffic(report: dict[str, Any]) -> str:
    """One line about the bytes sent over links; "" for a run without the workers."""
    if report["fallbacks"]:
        return ""
    sent, ratio = report["bytes_sent"], report["effective_ratio"]
    if not sent:
        return "Nothing was sent between workers"
    text = f"Sent {format_bytes(sent)}, {BITS_UNCOMPRESSED / ratio:.2g} bits per value"
    if ratio <= 1:
        return text
    uncompressed = format_bytes(report["bytes_uncompressed"])
    return f"{text}, instead of {uncompressed} at {BITS_UNCOMPRESSED} ({ratio:.1f} times less)"


def summarize(report: dict[str, Any]) -> str:
    """The report in a few lines: headline, traffic, the largest error, and every fallback and warning."""
    lines = [f"{line}." for line in (headline(report), traffic(report)) if line]
    if report["bytes_sent"]:
        lines.append(f"Workers waited {format_seconds(report['exposed_seconds'])} for links at most.")
    if report["hidden_seconds"]:
        lines.append(f"Sending took {format_seconds(report['hidden_seconds'])} behind compute.")
    error = report["max_relative_error"]
    if error is not None:
        lines.append(f"Largest relative error of a sent tensor: {error:.2%}.")
    if report["self_check"]:
        lines.append(self_check.sentence(SelfCheck(**report["self_check"])))
    if report["restarts"]:
        times, kept = plural(report["restarts"], "time"), plural(report["resumed_calls"], "call")
        lines.append(f"The workers were restarted {times}; {kept} kept.")
    lines += [f"Fallback: {sentence}" for sentence in report["fallbacks"]]
    lines += [f"Warning: {sentence}" for sentence in report["warnings"]]
    return "\n".join(lines)
