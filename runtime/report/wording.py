"""Short texts about a run that can be translated: its state while it goes on, and its result in one line.

The longer English text of a report is in summary.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .history import runs
from .live import LiveRun

LEAST_RATIO = 1.05
"""From this effective ratio on the result line says how much less data was sent."""
LEAST_SHOWN = 0.001

Said = tuple[str, dict[str, Any]]
"""A text with {placeholders} and their values, so that the text can be translated."""


def say(parts: list[Said], words: Mapping[str, str] | None = None) -> str:
    """The parts as one line; `words` has the translations by the English text."""
    return ", ".join((words or {}).get(text, text).format(**values) for text, values in parts)


def result_line(report: dict[str, Any], words: Mapping[str, str] | None = None) -> str:
    """A finished run in one line, with only what this run measured; `words` as for `say`.

    "2 workers, 0.41 s per step, 6.9x less data sent, worst error 0.4 %".
    """
    return say(_result(report), words)


def _result(report: dict[str, Any]) -> list[Said]:
    parts = [_counted(report["workers"], "{count} worker", "{count} workers")]
    if report["fallbacks"]:
        parts[0] = ("One device, without the workers", {})
    if report["steps"]:
        parts.append(("{seconds} s per step", {"seconds": _short(report["sampling_seconds"] / report["steps"])}))
    if report["rounds"] < report["calls"]:
        calls, rounds = report["calls"], report["rounds"]
        text = "{calls} calls in {rounds} round" if rounds == 1 else "{calls} calls in {rounds} rounds"
        parts.append((text, {"calls": calls, "rounds": rounds}))
    if (report["effective_ratio"] or 0) >= LEAST_RATIO:
        parts.append(("{ratio}x less data sent", {"ratio": f"{report['effective_ratio']:.1f}"}))
    if report["max_relative_error"] is not None:
        parts.append(("worst error {percent} %", {"percent": _short(100 * report["max_relative_error"])}))
    if report["warnings"]:
        parts.append(_counted(len(report["warnings"]), "{count} warning", "{count} warnings"))
    return parts


def status_line(run: LiveRun, pool: dict[str, Any] | None, words: Mapping[str, str] | None = None) -> str:
    """The state of a run in a few words; `pool` is the status of its pool, None if there is none (yet)."""
    return say(status(run, pool), words)


def status(run: LiveRun, pool: dict[str, Any] | None) -> list[Said]:
    """The parts of `status_line`, which can be translated."""
    if run.outcome == "done":
        report = runs().find(run.run_id)
        return _result(report) if report is not None else [(run.result, {})]
    if run.outcome == "failed":
        return [("The run failed; the tab Parallel in the sidebar shows why", {})]
    steps = {"step": run.step, "total": run.total}
    if run.outcome == "cancelled":
        text = "Cancelled after step {step} of {total}" if run.total else "Cancelled after step {step}"
        return [(text if run.step else "Cancelled before the first step", steps)]
    return [*_doing(run, pool, steps), *_silent(pool)]


def _silent(pool: dict[str, Any] | None) -> list[Said]:
    """Texts about workers of a run that do not answer."""
    workers = pool["workers"] if pool else []
    silent = [(worker["rank"], worker["silent_seconds"]) for worker in workers if worker.get("silent_seconds")]
    text = "worker {rank} has not answered for {seconds} s"
    return [(text, {"rank": rank, "seconds": seconds}) for rank, seconds in silent]


def _doing(run: LiveRun, pool: dict[str, Any] | None, steps: dict[str, int]) -> list[Said]:
    """Texts about the progress of a current run."""
    if run.step:
        pace = ("{seconds} s per step", {"seconds": _short(run.seconds / run.step)})
        return [("Step {step} of {total}" if run.total else "Step {step}", steps), pace]
    workers = [worker["state"] for worker in pool["workers"]] if pool else []
    count = len(workers)
    if pool and pool["state"] == "starting":
        starting = _counted(count, "Starting {count} worker", "Starting {count} workers")
        return [starting, ("{ready} ready", {"ready": workers.count("idle")})]
    if pool and pool["state"] == "finishing":
        one, more = "Waiting for {count} worker in its last call", "Waiting for {count} workers in their last call"
        return [_counted(workers.count("finishing"), one, more)]
    if "loading" in workers:
        loading = _counted(count, "Loading the model on {count} worker", "Loading the model on {count} workers")
        return [loading, ("{ready} ready", {"ready": workers.count("loaded")})]
    if "sampling" in workers:
        return [_counted(count, "Sampling on {count} worker", "Sampling on {count} workers")]
    return [("Preparing the run", {})]


def _counted(count: int, one: str, more: str) -> Said:
    return (one if count == 1 else more), {"count": count}


def _short(number: float) -> str:
    """A number with two significant digits, never as 1e-05: "0.41", "12", "0.0032"."""
    if 0 < number < LEAST_SHOWN:
        return f"below {LEAST_SHOWN}"
    return f"{number:.0f}" if number >= 9.95 else f"{number:.2g}"
