"""ComfyUIs that lack something, for tests: copies of the one at COMFYUI_PATH whose code was rewritten, so that servers
and workers run it.

In each the change is consistent: ComfyUI itself works as before.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

OF_USERS = {"custom_nodes", "input", "models", "output", "temp", "user"}


def renamed(name: str) -> tuple[str, str, str]:
    """A name that is another one now, everywhere."""
    return "", rf"\b{name}\b", f"{name}_of_later"


# {what is lacking: (file, or "" for all, a pattern, what stands there instead)}.
CHANGES = {
    "a parameter of get_area_and_mult": (
        "comfy/samplers.py",
        r"def get_area_and_mult\(conds, x_in, timestep_in\):",
        "def get_area_and_mult(conds, x_in, moment):\n    timestep_in = moment",
    ),
    "can_concat_cond": renamed("can_concat_cond"),
    "BrownianTreeNoiseSampler": renamed("BrownianTreeNoiseSampler"),
    "CONST": ("", r"(?<=model_sampling\.)CONST\b|(?<=class )CONST\b", "CONST_of_later"),
    "TimestepEmbedSequential": renamed("TimestepEmbedSequential"),
    "get_control as it was": (
        "comfy/controlnet.py",
        r"def get_control\(self, x_noisy, t, cond, batched_number, transformer_options\)",
        "def get_control(self, x_noisy, t, cond, batched_number, transformer_options, more=None)",
    ),
    "c_crossattn": renamed("c_crossattn"),
    "get_additional_models": renamed("get_additional_models"),
    "send_progress_text": renamed("send_progress_text"),
    "get_executing_context": renamed("get_executing_context"),
}


def make(folder: Path, *lacking: str) -> Path:
    """Write such a copy to `folder`, which must not exist yet. Raises ValueError where a pattern is not found."""
    source = Path(os.environ["COMFYUI_PATH"])

    def unneeded(place: str, names: list[str]) -> set[str]:
        return set(names) & ({".git"} | (OF_USERS if Path(place) == source else set()))

    shutil.copytree(source, folder, ignore=unneeded)  # with compiled code, which fits what is not rewritten
    for name in lacking:
        file, pattern, replacement = CHANGES[name]
        found = 0
        for path in [folder / file] if file else folder.rglob("*.py"):
            text, times = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
            if times:
                path.write_text(text, encoding="utf-8")
            found += times
        if not found:
            raise ValueError(f"There is no {pattern!r} in {source / file}.")
    return folder
