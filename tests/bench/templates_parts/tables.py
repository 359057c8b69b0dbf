"""Formats the verdicts as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import bench

from .verdicts import VERDICTS, Verdict


def text(found: Sequence[Verdict]) -> str:
    """Three tables: the number of templates by verdict, the same for each family, and one line per template."""
    kinds = Counter(one.kind for one in found)
    families = Counter((family, one.kind) for one in found for family in one.families)
    shown = [kind for kind in VERDICTS if any(kind == other for _, other in families)]
    names = sorted({family for family, _ in families})
    by_family = [(name, *(families[name, kind] or "" for kind in shown)) for name in names]
    tables = (
        bench.table(("verdict", "templates"), [(kind, kinds[kind]) for kind in VERDICTS]),
        bench.table(("family", *shown), by_family),
        bench.table(("template", "verdict", "how, or why not"), [(one.name, one.kind, one.why) for one in found]),
    )
    return "\n\n".join(tables)
