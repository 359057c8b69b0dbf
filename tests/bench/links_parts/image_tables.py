"""Formats the results of one link as a table, as sentences and as JSON. The first result must be the serial one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import bench
from compact_parallel.runtime.report.metrics import psnr, ssim

from .bystanders import TOLERATED_CORES
from .cases import AUTO, EXACT, OURS, SIXTEEN
from .images import Image, OnLink, Result

HEADER = ("how", "seconds", "speed-up", "PSNR dB", "SSIM", "MB sent", "ratio", "exposed s", "hidden s")
NOTE = (
    "Seconds are the sampler's alone, the median. Uncompressed values are float32, as the CPU computes; the rows with "
    "16 bit send bfloat16, as a GPU would. MB are those of all workers; ratio is against 16 bits per value. PSNR and "
    "SSIM are of the decoded picture against the serial one. \\*: other processes kept more than "
    f"{TOLERATED_CORES} cores busy."
)
_REPORTED = (
    "compression",
    "bytes_sent",
    "bytes_uncompressed",
    "effective_ratio",
    "exposed_seconds",
    "hidden_seconds",
    "max_relative_error",
    "bits",
    "phases",
    "warnings",
)


def to_json(on_link: OnLink) -> dict[str, Any]:
    """Plain JSON values: the link as the pool measured it, and one dict per case."""
    serial = on_link.results[0].images[-1]
    return {"link": on_link.link, "rows": [_row(result, serial) for result in on_link.results]}


def text(on_link: OnLink, rows: Sequence[dict[str, Any]]) -> str:
    """The link as the pool measured it, the table of the rows of `to_json`, and the summary sentences."""
    table = bench.table(HEADER, [_cells(row, rows[0]["seconds"]) for row in rows])
    return "\n".join([_measured(on_link.link), "", table, "", *_summary(on_link.results)])


def _row(result: Result, serial: Image) -> dict[str, Any]:
    row = {"case": result.case.name, "strategy": result.case.strategy, "problem": result.problem}
    if result.images:
        last = result.images[-1]
        row |= {"seconds": result.seconds, "all_seconds": [image.seconds for image in result.images]}
        row |= {"others_cores": [image.others for image in result.images]}
        row |= {"psnr": psnr(last.picture, serial.picture), "ssim": ssim(last.picture, serial.picture)}
        row |= {name: last.report[name] for name in _REPORTED if name in last.report}
    return row


def _cells(row: dict[str, Any], serial_seconds: float) -> tuple:
    if "seconds" not in row:
        return (row["case"], row["problem"], *[""] * (len(HEADER) - 2))
    busy = "\\*" if max(row["others_cores"]) > TOLERATED_CORES else ""
    seconds = (_name(row), f"{row['seconds']:.2f}{busy}", f"{serial_seconds / row['seconds']:.2f}")
    if row["strategy"] is None:
        return (*seconds, *[""] * (len(HEADER) - 3))
    return (
        *seconds,
        f"{row['psnr']:.1f}",
        f"{row['ssim']:.4f}",
        f"{row['bytes_sent'] / 1e6:.1f}",
        f"{row['effective_ratio']:.2f}" if row["effective_ratio"] else "",
        f"{row['exposed_seconds']:.2f}",
        f"{row['hidden_seconds']:.2f}",
    )


def _name(row: dict[str, Any]) -> str:
    """The name of the row; for "auto" with the codec or mode that was chosen."""
    chosen = row.get("compression", {})
    became = f" ({chosen['codec'] if chosen['mode'] == 'codec' else chosen['mode']})" if chosen else ""
    return row["case"] + (became if row["case"].endswith(AUTO) else "")


def _measured(link: dict | None) -> str:
    """A sentence with the link as the pool measured it when it started."""
    if link is None:
        return "The pool measured no link."
    megabits = 8e-6 * link["bytes_per_second"]
    return f"The pool measured {megabits:.0f} Mbit/s each way and {link['latency_ms']:.2f} ms."


def _summary(results: Sequence[Result]) -> list[str]:
    """Sentences: our codecs against the fastest uncompressed exchange, and auto against the fastest of its exchange."""
    done = [r for r in results if r.images and r.case.rates is None and "cfg_degree" not in (r.case.strategy or {})]
    sentences = []
    for sent in OURS:
        ours = _fastest(r for r in done if r.case.sent == sent and r.case.exchange != "displaced")
        for rival in (EXACT, SIXTEEN):
            best = _fastest(result for result in done if result.case.sent == rival)
            if ours is not None and best is not None:
                factor = best.seconds / ours.seconds
                sentences.append(f"- {ours.case.name}: {factor:.2f} times as fast as {best.case.name}.")
    for auto in (result for result in done if result.case.sent == AUTO):
        best = _fastest(result for result in done if result.case.exchange == auto.case.exchange)
        more = 100 * (auto.seconds / best.seconds - 1)
        sentences.append(
            f"- {auto.case.name}: {more:.1f} % more time than {best.case.name}, the best of this exchange."
        )
    return sentences


def _fastest(results: Iterable[Result]) -> Result | None:
    return min(results, key=lambda result: result.seconds, default=None)
