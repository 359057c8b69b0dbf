"""The library whose code the models of a family run: what counts as its code, and the words of a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from ..attention.unsupported import OTHER_DEGREES, WAY_OUT
from ..host import installed


@dataclass(frozen=True)
class Library:
    """A library of models: `name`, and the Python module `version` that has its `__version__`.

    `packages`: the Python packages whose code a model of it may run; other code in a model was put there by the user.
    `attention`: completes "an attention that does not go through ..."; it may name the library as "{}".
    `own_code`: our code, as the user knows it. `way_out` and `other_degrees` end the sentences of refusals; see
    attention/unsupported.py.
    """

    name: str
    version: str
    packages: tuple[str, ...]
    attention: str
    own_code: str
    way_out: str
    other_degrees: str

    @property
    def installed(self) -> str:
        """Its name and version."""
        return installed(self.name, self.version)


COMFYUI = Library(
    name="ComfyUI",
    version="comfyui_version",
    packages=("comfy", "torch", "einops"),
    attention="the attention functions of {}",
    own_code="Parallel Model's own code",
    way_out=WAY_OUT,
    other_degrees=OTHER_DEGREES,
)
