"""Rewrites code of ComfyUI as another version could have it, in this process or in a copy of ComfyUI's folder.

A change is {file below ComfyUI's folder: [(old text, new text)]}, with the files in the order in which they import each
other.
"""

from __future__ import annotations

import importlib
from pathlib import Path

LAYERS, FLUX = "comfy/ldm/flux/layers.py", "comfy/ldm/flux/model.py"
WAN, LTX = "comfy/ldm/wan/model.py", "comfy/ldm/lightricks/model.py"
_BLOCK = (
    "    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, "
    "attn_mask=None, modulation_dims_img=None, "
)
_BODY = "        if self.modulation:\n            img_mod1, img_mod2"
_CALL = "                                 pe=pe,\n"

# A parameter that the plan names is renamed.
RENAMED = {
    LAYERS: [(_BLOCK, _BLOCK.replace("pe: Tensor", "freqs: Tensor")), (_BODY, f"        pe = freqs\n{_BODY}")],
    FLUX: [(_CALL, _CALL.replace("pe=", "freqs="))],
}
# The positions are passed in a tuple, which the hook that splits them does not expect.
IN_A_TUPLE = {
    WAN: [
        (
            '        # assert e.dtype == torch.float32\n\n        patches = transformer_options.get("patches", {})\n',
            '        (freqs,) = freqs\n        patches = transformer_options.get("patches", {})\n',
        ),
        ("freqs=freqs, context=context, context_img_len", "freqs=(freqs,), context=context, context_img_len"),
    ]
}


def new_parameter(declared: str, given: str) -> dict:
    """The change that gives Flux's double blocks one more parameter, `weights`, which multiplies the image tokens."""
    parameter = f"{declared}, pe: Tensor" if "=" not in declared else "pe: Tensor"
    block = _BLOCK.replace("pe: Tensor", parameter)
    block += f"{declared}, " if "=" in declared else ""
    weighed = f"        if weights is not None:\n            img = img * weights\n{_BODY}"
    return {
        LAYERS: [(_BLOCK, block), (_BODY, weighed)],
        FLUX: [(_CALL, f"{_CALL}                                 {given}\n")],
    }


def rewritten(text: str, changes: list[tuple[str, str]]) -> str:
    """The text with the changes made. Raises ValueError if it does not have one of the old texts."""
    for old, new in changes:
        if old not in text:
            raise ValueError(f"this ComfyUI does not have {old!r}")
        text = text.replace(old, new)
    return text


def rewrite(change: dict) -> None:
    """Executes the changed code in the loaded modules of this process; a file with an empty list is only reloaded."""
    for file, changes in change.items():
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        text = rewritten(Path(module.__file__).read_text(encoding="utf-8"), changes)
        for name in [name for name in vars(module) if not name.startswith("__")]:
            delattr(module, name)
        exec(compile(text, module.__file__, "exec"), vars(module))


def rewrite_folder(folder: Path, *changes: dict) -> None:
    """Applies changes to the files of a copy of ComfyUI."""
    for change in changes:
        for file, pairs in change.items():
            path = folder / file
            path.write_text(rewritten(path.read_text(encoding="utf-8"), pairs), encoding="utf-8")
