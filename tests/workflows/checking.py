"""Reads workflows the way ComfyUI does: UI form to API form, and what is wrong with an API form."""

from __future__ import annotations

from typing import Any

TYPED_IN = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
MATCH = "COMFY_MATCHTYPE_V3"
"""The type of inputs and outputs that are what is linked to them."""
EXTRA_FIELDS = ("control_after_generate", "image_upload")
"""Options of an input that give the browser one more field behind it, which no API form has."""
FILE_CHOICES = {
    "UNETLoader": ("unet_name",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "ImageOnlyCheckpointLoader": ("ckpt_name",),
    "CLIPLoader": ("clip_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"),
    "VAELoader": ("vae_name",),
    "LoadImage": ("image",),
    "CompactParallelPipeline": ("folder",),
}
"""Inputs whose choices are the files of this machine."""


def inputs(info: dict[str, Any], values: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, dict, bool]]:
    """Type, options and whether it is required, of every input a node has with these values."""
    found = {}
    for section in ("required", "optional"):
        for name, (given, *options) in info.get(section, {}).items():
            kind = "COMBO" if isinstance(given, list) else given
            details = ({"options": given} if isinstance(given, list) else {}) | (options[0] if options else {})
            found[prefix + name] = (kind, details, section == "required")
            if kind == "COMFY_DYNAMICCOMBO_V3":
                keys = [option["key"] for option in details["options"]]
                chosen = values.get(prefix + name, keys[0])
                if chosen in keys:
                    child = details["options"][keys.index(chosen)]["inputs"]
                    found |= inputs(child, values, f"{prefix}{name}.")
    return found


def default_of(kind: str, options: dict) -> Any:
    """What an input shows untouched."""
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    return options.get("default", (options.get("options") or [""])[0])


def with_defaults(prompt: dict, object_info: dict) -> dict:
    """The API form with every field that may be left out filled in, so that two of them can be compared."""
    full = {}
    for number, node in prompt.items():
        values = dict(node["inputs"])
        for name, (kind, options, required) in inputs(object_info[node["class_type"]]["input"], values).items():
            if kind in TYPED_IN and not required and not options.get("forceInput"):
                values.setdefault(name, default_of(kind, options))
        full[number] = {**node, "inputs": values}
    return full


def to_api(graph: dict, object_info: dict, older: bool = False) -> dict:
    """What the browser would send for a workflow in UI form. Raises where values are missing or left over.

    `older`: it was saved before the last inputs of a node were added; the browser gives those their defaults.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        info = object_info[node["type"]]
        values = _typed_in(info["input"], list(node["widgets_values"]), node["type"], older)
        values |= {one["name"]: sources[one["link"]] for one in node["inputs"] if one["link"] is not None}
        title = node.get("title") or info["display_name"] or node["type"]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values, "_meta": {"title": title}}
    return prompt


def _typed_in(info: dict, left: list[Any], where: str, older: bool) -> dict[str, Any]:
    """The fields of a node by name, from their values in order."""
    values: dict[str, Any] = {}
    done: set[str] = set()
    while True:  # an option of a DynamicCombo brings new fields
        waiting = [name for name in inputs(info, values) if name not in done]
        if not waiting:
            break
        kind, options, _ = inputs(info, values)[waiting[0]]
        done.add(waiting[0])
        if kind not in TYPED_IN or options.get("forceInput"):
            continue
        if older and not left:
            values[waiting[0]] = default_of(kind, options)
            continue
        values[waiting[0]] = left.pop(0)
        for extra in EXTRA_FIELDS:
            if options.get(extra):
                left.pop(0)
    assert not left, f"{where} has fields left over: {left}"
    return values


def complaints(prompt: dict, object_info: dict) -> list[str]:
    """All that is wrong with an API form; the names of files are not looked at."""
    found = []
    for number, node in prompt.items():
        kind = node["class_type"]
        if kind not in object_info:
            found.append(f"{number}: there is no node {kind}")
            continue
        known = inputs(object_info[kind]["input"], node["inputs"])
        found += [
            f"{number} {kind}: {name} is required" for name in known if known[name][2] and name not in node["inputs"]
        ]
        for name, value in node["inputs"].items():
            where = f"{number} {kind}.{name}"
            if name not in known:
                found.append(f"{where} is no input")
            elif isinstance(value, list):
                found += [f"{where}: {text}" for text in _about_link(value, *known[name][:2], prompt, object_info)]
            elif name not in FILE_CHOICES.get(kind, ()):
                found += [f"{where}: {text}" for text in _about_value(value, *known[name][:2])]
    return found


def _about_link(link: list, kind: str, options: dict, prompt: dict, object_info: dict) -> list[str]:
    if link[0] not in prompt:
        return [f"there is no node {link[0]}"]
    outputs = object_info.get(prompt[link[0]]["class_type"], {}).get("output", [])
    if link[1] >= len(outputs):
        return [f"node {link[0]} has no output {link[1]}"]
    wanted, given = _allowed(kind, options), _given(link, prompt, object_info)
    fits = "*" in (wanted, given) or set(given.split(",")) & set(wanted.split(","))
    return [] if fits else [f"wants {wanted} but gets {given}"]


def _allowed(kind: str, options: dict) -> str:
    """The types that an input takes, with commas."""
    return options["template"]["allowed_types"] if kind == MATCH else kind


def _given(link: list, prompt: dict, object_info: dict) -> str:
    """The type of what comes over a link, "*" if nobody knows. An output that matches an input gives what comes in."""
    node = prompt.get(link[0], {"class_type": ""})
    info = object_info.get(node["class_type"])
    if info is None:
        return "*"
    if info["output"][link[1]] != MATCH:
        return info["output"][link[1]]
    template = info["output_matchtypes"][link[1]]
    for name, (kind, options, _) in inputs(info["input"], node["inputs"]).items():
        source = node["inputs"].get(name)
        if kind == MATCH and options["template"]["template_id"] == template and isinstance(source, list):
            return _given(source, prompt, object_info)
    return "*"


def _about_value(value: Any, kind: str, options: dict) -> list[str]:
    if kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
        choices = [one["key"] if isinstance(one, dict) else one for one in options["options"]]
        return [] if value in choices else [f"{value!r} is none of {choices}"]
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if kind not in types:
        return [f"{kind} comes over a link, not as {value!r}"]
    if not isinstance(value, types[kind]) or isinstance(value, bool) != (kind == "BOOLEAN"):
        return [f"{value!r} is no {kind}"]
    if kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
        return [f"{value} is not from {options.get('min')} to {options.get('max')}"]
    return []
