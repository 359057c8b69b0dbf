"""The English words of the nodes, as ComfyUI's translation files have them, from what the server says of the nodes."""

from __future__ import annotations

from typing import Any

PACK = "ComfyUI-CompactParallel"


def ours(object_info: dict[str, Any]) -> dict[str, Any]:
    """The entries of this pack's nodes."""
    return {name: info for name, info in object_info.items() if info["python_module"].endswith(PACK)}


def node_words(object_info: dict[str, Any]) -> dict[str, Any]:
    """What locales/en/nodeDefs.json must be."""
    return {name: _node(info) for name, info in sorted(ours(object_info).items())}


def _node(info: dict[str, Any]) -> dict[str, Any]:
    outputs = zip(info["output_name"], info["output"], info["output_tooltips"])
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": _inputs(info["input"]),
        "outputs": {
            str(number): {**({"name": name} if name != kind else {}), "tooltip": tooltip}
            for number, (name, kind, tooltip) in enumerate(outputs)
        },
    }


def _inputs(info: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names and tooltips; "." in a name is "_" in a key, and the inputs of a choice come behind it."""
    found: dict[str, Any] = {}
    for section in ("required", "optional"):
        for name, (_, options) in info.get(section, {}).items():
            found[prefix + name] = {"name": name, "tooltip": options["tooltip"]}
            for choice in options.get("options", []):
                if isinstance(choice, dict):
                    found |= _inputs(choice["inputs"], f"{prefix}{name}_")
    return found
