"""What Parallel Model makes of ComfyUI's official templates:  python3 tests/bench/templates.py [--only WORD ...]

Puts Parallel Model before each sampler and guider of every workflow template, also within subgraphs, lets ComfyUI's own
front end turn it into a prompt, and prints what mode "auto" would do with it on two workers. Nothing is sampled: the
family of a model is known by the name of its file, and CFG is read from the workflow. The table leaves out what only a
run can show: patches that keep conditions together or that cannot be split, and CFG Override. In a release that is
newer than the front end (--wheel) some values are in other fields, as a user sees them, too.
Needs Chromium, node and playwright-core as the browser tests do; takes a few minutes. Ends with 1 if a sampler of an
active node has no Parallel Model before it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from templates_parts import command, reading
from templates_parts.reading import PACKAGE


def options() -> argparse.Namespace:
    """The command line."""
    parser = command.parser(__doc__)
    parser.add_argument("--wheel", type=Path, help=f"of another release: pip download --no-deps {PACKAGE}==VERSION")
    return parser.parse_args()


def main() -> int:
    """Prints the tables. Returns 1 if a sampler has no Parallel Model before it."""
    chosen = options()
    command.begin(__file__)
    from templates_parts import front_end, tables
    from templates_parts.placing import placed
    from templates_parts.verdicts import NOT_PLACED, Verdict, verdict

    release = reading.in_wheel(chosen.wheel) if chosen.wheel else reading.installed()
    wanted = [one for one in release.templates() if any(word in one.name for word in chosen.only)]
    found: list[Verdict] = []
    with front_end.opened() as opened:
        for template in wanted:
            print(f"{len(found) + 1} of {len(wanted)}", end="\r", file=sys.stderr, flush=True)
            found.append(verdict(template, opened.prompt(placed(template.graph)), opened.object_info))
    print(f"{PACKAGE} {release.version}: {len(found)} templates, two workers, mode auto\n")
    print(tables.text(found))
    return int(any(one.kind == NOT_PLACED for one in found))


if __name__ == "__main__":
    sys.exit(main())
