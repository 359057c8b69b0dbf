"""Seconds per image over shaped links:  sudo python3 tests/bench/links.py [--images] [--attention] [--equal-time]

Joins network namespaces on this machine by a switch whose ports are limited to a rate (Linux, root, iproute2), runs the
pool's workers inside them, and prints the chosen tables, all three by default:
  --images      seconds per image of the tiny trained model, and PSNR and SSIM against the serial image, for every
                exchange, uncompressed and compressed;
  --attention   milliseconds of one attention against diffusers' Ulysses and yunchang's ring on the same tensors;
  --equal-time  PSNR and SSIM at equal time: the time of our run at 2 bit, with as many steps as fit into it.
Each worker has one thread. Namespaces and workers are removed at the end, also after Ctrl+C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import bench
from links_parts.namespaces import RATES, CannotShape, Links


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part in PARTS:
        parser.add_argument(f"--{part}", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4], choices=(2, 4))
    parser.add_argument("--rates", nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--size", type=int, default=512, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2, help="images per row; the median counts")
    parser.add_argument("--cases", nargs="+", default=[""], help="only the rows whose name contains one of these")
    parser.add_argument("--seeds", type=int, default=3, help="prompts of --equal-time")
    parser.add_argument("--calls", type=int, default=20, help="attentions of --attention")
    parser.add_argument("--out", type=Path, help="write everything as JSON to this file")
    return parser.parse_args()


PARTS = ("images", "attention", "equal-time")


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def say(line: str) -> None:
    """Prints progress to stderr, so that stdout has only the tables."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measures and prints the tables. Returns 1 if a row failed; a row that is not available is no failure."""
    chosen = options()
    bench.begin(__file__)
    signal.signal(signal.SIGTERM, _stop)
    parts = {part for part in PARTS if getattr(chosen, part.replace("-", "_"))} or set(PARTS)
    load = os.getloadavg()[0]
    print(f"Load of the machine at the start: {load:.1f}. Every worker has one thread.")
    if max(chosen.workers) > (os.cpu_count() or 1):
        print(f"{max(chosen.workers)} workers share {os.cpu_count()} cores: their compute is slower than on their own.")
    found = {"processor": bench.processor(), "load": load, "options": {**vars(chosen), "out": str(chosen.out)}}
    try:
        for world in chosen.workers:
            with Links(world) as links:
                measure(links, chosen, parts, found.setdefault(f"{world} workers", {}))
    except CannotShape as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the namespaces and the workers are gone.")
    finally:
        if chosen.out is not None:
            chosen.out.write_text(json.dumps(found, indent=1))
    return int('"failed: ' in json.dumps(found))


def measure(links: Links, chosen: argparse.Namespace, parts: set[str], found: dict) -> None:
    """Measures and prints the chosen tables for the workers of one network; adds the results to `found`."""
    import comfy.utils
    from links_parts import attention_part, equal_time, image_tables, images
    from links_parts.cases import SERIAL, cases, equal_time_cases

    comfy.utils.set_progress_bar_enabled(False)
    shape = images.Shape(chosen.size, chosen.steps)
    rivals = equal_time_cases(links.world)
    wanted = [case for case in cases(links.world) if case is SERIAL or any(word in case.name for word in chosen.cases)]
    measured = {}
    if "images" in parts:
        run = f"{chosen.size} x {chosen.size}, {chosen.steps} Euler steps, CFG 3"
        print(f"\n## Seconds per image, {links.world} workers, {run}\n\n{image_tables.NOTE}")
    if parts & {"images", "equal-time"}:
        timed = wanted if "images" in parts else rivals
        with images.workers_in(links.namespaces) as pool:
            for rate in chosen.rates:
                on_link = measured[rate] = images.over(rate, links, pool, timed, shape, chosen.repeats, say)
                as_json = found.setdefault("images", {})[rate] = image_tables.to_json(on_link)
                if "images" in parts:
                    print(f"\n### {rate}\n\n{image_tables.text(on_link, as_json['rows'])}", flush=True)
    if "equal-time" in parts:
        text, found["equal time"] = equal_time.table(links, measured, rivals, shape, chosen.seeds, say)
        print(f"\n## Likeness at equal wall clock, {links.world} workers\n\n{equal_time.NOTE}\n\n{text}", flush=True)
    if "attention" in parts:
        text, found["attention"] = attention_part.table(links, chosen.rates, chosen.calls, say)
        print(f"\n## One attention, {links.world} workers\n\n{attention_part.NOTE}\n\n{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
