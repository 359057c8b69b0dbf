"""Draws a run's report as one figure: time per phase and worker; bytes, codecs and error per model call.

Uses matplotlib's object interface only, so that no global state of the process changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from .ledger import BITS_UNCOMPRESSED
from .summary import format_bytes, headline, traffic

_PHASES = {
    "compute": ("computing", "#4c78a8"),
    "encode": ("compressing", "#f2a33a"),
    "decode": ("decompressing", "#f6d28b"),
    "exposed": ("waiting for a link", "#e45756"),
}
_MORE_COLOURS = ("#72b7b2", "#b279a2", "#9d755d", "#bab0ac")
_SENT, _RAW, _ERROR, _BOUND = "#4c78a8", "#8a8a8a", "#e45756", "#333333"
_CODEC_COLOURS = colormaps["viridis_r"]
_MAX_MARKED_CALLS = 40
_WIDTH, _DPI = 9.0, 100


def draw(report: dict[str, Any], codecs: Sequence[str]) -> Figure:
    """The figure of a report (see `run_report`), 900 pixels wide; it grows with the number of workers.

    `codecs`: codec names from coarse to exact, the order in which they are stacked; others follow by name.
    """
    bars = 1.0 + 0.3 * report["workers"]
    figure = Figure(figsize=(_WIDTH, bars + 9.0), dpi=_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(hspace=0.06)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{headline(report)}\n{traffic(report)}", fontsize=11, wrap=True)
    time_axes, bytes_axes, bits_axes, error_axes = figure.subplots(4, 1, height_ratios=[bars, 2.4, 2.4, 2.4])
    _draw_time(time_axes, report["phases"], report["devices"])
    _draw_bytes(bytes_axes, report)
    _draw_bits(bits_axes, report, (*codecs, "uncompressed"))
    _draw_error(error_axes, report)
    return figure


def to_pixels(figure: Figure) -> np.ndarray:
    """The figure as (H, W, 3) uint8."""
    canvas = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_time(axes: Axes, phases: list[dict[str, float]], devices: list[str]) -> None:
    others = sorted({name for rank in phases for name in rank} - _PHASES.keys())
    styles = _PHASES | {name: (name, _MORE_COLOURS[i % len(_MORE_COLOURS)]) for i, name in enumerate(others)}
    rows = np.arange(len(phases))
    left = np.zeros(len(phases))
    for name, (label, colour) in styles.items():
        seconds = np.array([rank.get(name, 0.0) for rank in phases])
        if seconds.any():
            axes.barh(rows, seconds, left=left, height=0.7, color=colour, label=label)
            left += seconds
    axes.set_yticks(rows, [f"worker {rank} ({device})" for rank, device in enumerate(devices)])
    axes.set_ylim(len(phases) - 0.4, -0.6)
    axes.set_title("Where each worker's time went", loc="left", fontsize=10)
    axes.set_xlabel("seconds")
    _tidy(axes, grid="x")
    if left.any():
        _legend(axes)


def _draw_bytes(axes: Axes, report: dict[str, Any]) -> None:
    axes.set_title("Bytes sent per model call", loc="left", fontsize=10)
    if not report["bytes_sent"]:
        _say(axes, "Nothing was sent between workers.")
        return
    calls = report["calls"]
    edges = np.arange(calls + 1) + 0.5
    sent, raw = report["bytes_sent_per_call"], report["bytes_uncompressed_per_call"]
    raw_label = f"the same tensors at {BITS_UNCOMPRESSED} bits per value"
    axes.stairs(sent, edges, fill=True, color=_SENT, alpha=0.85, label="sent")
    axes.stairs(raw, edges, baseline=None, color=_RAW, linewidth=1.8, label=raw_label)
    top = max(*sent, *raw)
    axes.set_ylim(0, top * 1.1 or 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_bytes(value)))
    _call_axis(axes, calls)
    _legend(axes)


def _draw_bits(axes: Axes, report: dict[str, Any], order: Sequence[str]) -> None:
    """Draws the share of each codec in the tensors of a call, and above each bar the mean bits per value."""
    axes.set_title("Codecs of the tensors sent (above: mean bits per value)", loc="left", fontsize=10)
    counts = report["codecs_per_call"]
    total = Counter(name for call in counts for name in call)
    if not total:
        _say(axes, "Nothing was compressed: every value took its own 16 or 32 bits.")
        return
    calls = np.arange(report["calls"]) + 1
    bottom = np.zeros(report["calls"])
    names = sorted(total, key=lambda name: (order.index(name) if name in order else len(order), name))
    for place, name in enumerate(names):
        share = np.array([call.get(name, 0) / (sum(call.values()) or 1) for call in counts])
        colour = _CODEC_COLOURS((place + 1) / (len(names) + 1))
        axes.bar(calls, share, bottom=bottom, width=0.9, color=colour, label=name)
        bottom += share
    step = -(-report["calls"] // _MAX_MARKED_CALLS)
    for call, bits in list(zip(calls, report["bits"]))[::step]:
        axes.text(call, 1.02, f"{bits:.1f}", ha="center", va="bottom", fontsize=7, color="#333333")
    axes.set_ylim(0, 1.18)
    axes.set_yticks([0, 0.5, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _call_axis(axes, report["calls"])
    _legend(axes)


def _draw_error(axes: Axes, report: dict[str, Any]) -> None:
    axes.set_title("Largest relative error of a sent tensor", loc="left", fontsize=10)
    if report["max_relative_error"] is None:
        _say(axes, "Nothing was compressed: what arrives is what was sent.")
        return
    calls = report["calls"]
    errors = np.array([np.nan if error is None else error for error in report["error_per_call"]])
    marker = "o" if calls <= _MAX_MARKED_CALLS else None
    axes.plot(np.arange(calls) + 1, errors, color=_ERROR, marker=marker, markersize=4, label="measured", clip_on=False)
    quality = report["compression"]["mode"] == "quality"
    bound = report["compression"]["max_relative_error"] if quality else None
    if bound is not None:
        axes.axhline(bound, color=_BOUND, linestyle="--", linewidth=1.2, label=f"asked for at most {bound:.3g}")
        _legend(axes)
    axes.set_ylim(0, max(report["max_relative_error"], bound or 0.0) * 1.15 or 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _call_axis(axes, calls)


def _call_axis(axes: Axes, calls: int) -> None:
    axes.set_xlim(0.5, calls + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axes.set_xlabel("model call")
    _tidy(axes, grid="y")


def _legend(axes: Axes) -> None:
    axes.legend(ncols=8, fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)


def _say(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes, color="#555555", fontsize=10)
    axes.set(xticks=[], yticks=[])
    _tidy(axes, grid=None)


def _tidy(axes: Axes, grid: str | None) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(9)
    if grid:
        axes.grid(axis=grid, color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
