"""The table of what sequence parallelism knows, made from the plans, for the help page of Parallel Strategy;
`COMFYUI_PATH=... python test_support.py` prints it.

What it calls exact is what test_families and test_actions show: an action that no case needs fails there.
"""

import importlib
import inspect
import re
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import conftest  # noqa: F401

from compact_parallel.runtime.sharding.plan import ControlResiduals, DivideHeads
from compact_parallel.runtime.sharding.plans import PLANS, ROW_PLANS, plan_for
from tiny_diffusion import block_patches, cases, needs_comfyui, presence

pytestmark = needs_comfyui
COLUMNS = (
    "Family",
    "Sequence",
    "CFG",
    "Step",
    "Data",
    "Weights",
    "ControlNet residuals",
    "Patches between blocks",
    "Patches in attention",
    "Object patches, injections",
)
EVERY_MODEL = ("exact", "approximate", "exact")
BUT = {
    "SeedVR2": ("exact (3B: refused)", "approximate", "exact (3B: refused)"),
    "Hunyuan3D 2.1": ("exact (batches: refused)", "approximate", "exact"),
}
# Of families that the installed ComfyUI may not have.
IN_ATTENTION = {"Qwen-Image 2.1": "refused", "Wan-Animate 2": "exact"}
WEIGHTS = "replicated"
MOST_EXCEPTIONS = 2
ROOT = Path(__file__).resolve().parents[2]


def support_rows():
    """One row per family, under COLUMNS."""
    words = {True: "exact", False: "refused"}
    calls = {plan_for(build()).family for build, _ in block_patches.cases().values()}
    for plan in PLANS:
        control = any(isinstance(action, ControlResiduals) for action in plan.actions)
        whole, inner = words[bool(plan.blocks)], "exact" if plan.family in calls else "not called"
        between = words[bool(plan.blocks) or any(isinstance(action, DivideHeads) for action in plan.actions)]
        inner = IN_ATTENTION.get(plan.family, inner)
        yield plan.family, "exact", *BUT.get(plan.family, EVERY_MODEL), WEIGHTS, words[control], between, inner, whole
    for plan in ROW_PLANS:
        replaced = words[bool(plan.layers)]
        yield f"{plan.family} (rows)", "exact", *EVERY_MODEL, WEIGHTS, "exact", "exact", "exact", replaced
    yield "every other model", "refused", *EVERY_MODEL, WEIGHTS, "refused", "refused", "refused", "refused"


def support_table():
    """The rows as Markdown: a line for each column that is alike for nearly all families, a table of the others."""
    rows = list(support_rows())
    lines, wide = [], [0]
    for number, name in enumerate(COLUMNS[1:], 1):
        usual = Counter(row[number] for row in rows).most_common(1)[0][0]
        others = [row for row in rows if row[number] != usual]
        if len(others) > MOST_EXCEPTIONS:
            wide.append(number)
        else:
            lines.append("; ".join([f"- {name}: {usual}", *(f"{row[0]}: {row[number]}" for row in others)]))
    kept = [[row[number] for number in wide] for row in [COLUMNS, ["---"] * len(COLUMNS), *rows]]
    return "\n".join([*lines, "", *(f"| {' | '.join(line)} |" for line in kept)])


def test_every_family_is_in_the_table():
    assert support_table() in (ROOT / "web" / "docs" / "CompactParallelStrategy.md").read_text(encoding="utf-8")


def test_the_number_of_families_that_the_readme_names_is_right():
    for file in ("README.md", "CHANGELOG.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert {int(number) for number in re.findall(r"(\d+) transformer \[?families", text)} == {len(PLANS)}


def test_every_plan_names_classes_comfyui_has():
    for plan in (*PLANS, *ROW_PLANS):
        for model in plan.models:
            module, _, name = model.rpartition(".")
            if model not in presence.absent():
                assert inspect.isclass(getattr(importlib.import_module(module), name)), model


def test_every_class_with_a_plan_is_built_by_a_case():
    built = {
        f"{type(module).__module__}.{type(module).__qualname__}"
        for module in (build() for build, _ in cases().values())
    }
    named = {model for plan in PLANS for model in plan.models}
    base = "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT"  # of the class that is built
    assert named - built == {base} | presence.absent()


if __name__ == "__main__":
    print(support_table())
