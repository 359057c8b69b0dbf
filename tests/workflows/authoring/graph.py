"""A workflow while it is described: nodes, what feeds them, and where they stand in groups and columns."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
"""Types that a person types in on the node; all others come over a link."""

MATCH = "COMFY_MATCHTYPE_V3"
"""The type of inputs and outputs that are what is linked to them."""

NOTE = "MarkdownNote"
_NOTES = 101
"""Notes are numbered from here, so that the other nodes' numbers are the same as in the API form."""


@dataclass(frozen=True)
class Input:
    """One input of a node class as it stands: `options` is what /object_info says of it besides the type."""

    name: str
    type: str
    options: dict[str, Any]

    @property
    def is_widget(self) -> bool:
        """Whether the node shows a field for it."""
        return self.type in WIDGETS and not self.options.get("forceInput")

    @property
    def default(self) -> Any:
        """What the field shows before anyone changes it."""
        if self.type == "COMFY_DYNAMICCOMBO_V3":
            return self.options["options"][0]["key"]
        if "default" in self.options:
            return self.options["default"]
        choices = self.options.get("options")
        return choices[0] if choices else {"STRING": "", "BOOLEAN": False}.get(self.type, 0)


def active_inputs(info: dict[str, Any], values: dict[str, Any], prefix: str = "") -> Iterator[Input]:
    """The inputs of a node in order; behind a DynamicCombo those of the option that `values` chooses."""
    for section in ("required", "optional"):
        for name, spec in info.get(section, {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            one = Input(prefix + name, kind, options)
            yield one
            if kind == "COMFY_DYNAMICCOMBO_V3":
                chosen = values.get(one.name, one.default)
                option = next(option for option in options["options"] if option["key"] == chosen)
                yield from active_inputs(option["inputs"], values, f"{one.name}.")


@dataclass(frozen=True)
class Output:
    """Output number `slot` of a node."""

    node: Node
    slot: int


@dataclass
class Node:
    """A node: its class, what /object_info says of that, its title and the inputs that were given."""

    id: int
    type: str
    info: dict[str, Any]
    title: str
    values: dict[str, Any]
    text: str = ""
    """Of a note: its Markdown."""
    position: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)

    def __getitem__(self, name: str) -> Output:
        """The output of that name."""
        return Output(self, self.info["output_name"].index(name))

    def of_type(self, kind: str) -> Output:
        """The first output of a type."""
        return Output(self, self.info["output"].index(kind))

    @property
    def inputs(self) -> list[Input]:
        """Links first, then fields, as ComfyUI's browser keeps them."""
        found = list(active_inputs(self.info["input"], self.values))
        return [one for one in found if not one.is_widget] + [one for one in found if one.is_widget]


def matched(info: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What /object_info says of a node, with the type of what is linked to it where an input takes several."""
    info = copy.deepcopy(info)
    for section in info["input"].values():
        for name, given in section.items():
            if given[0] != MATCH or name not in values:
                continue
            template, value = given[1]["template"], values.get(name)
            source = value.node.info["output"][value.slot :] if isinstance(value, Output) else value.info["output"]
            given[0] = next(kind for kind in source if kind in template["allowed_types"].split(","))
            pairs = zip(info["output"], info["output_matchtypes"])
            info["output"] = [given[0] if one == template["template_id"] else kind for kind, one in pairs]
    return info


@dataclass
class Group:
    """A titled box; its nodes stand in columns."""

    title: str
    colour: str
    columns: list[list[Node]] = field(default_factory=lambda: [[]])


class Graph:
    """Collects nodes in lanes (left to right) of groups (top to bottom) of columns (left to right)."""

    def __init__(self, object_info: dict[str, Any]) -> None:
        self._object_info = object_info
        self.nodes: list[Node] = []
        self.lanes: list[list[Group]] = []

    def lane(self) -> None:
        """What follows stands to the right of all so far."""
        self.lanes.append([])

    def group(self, title: str, colour: str) -> None:
        """What follows is in a group of its own, below the last one of this lane."""
        self.lanes[-1].append(Group(title, colour))

    def column(self) -> None:
        """What follows stands in the next column of this group."""
        self.lanes[-1][-1].columns.append([])

    def node(self, kind: str, title: str = "", *, number: int | None = None, **values: Any) -> Node:
        """Adds a node. A Node as a value means its first output of the input's type.

        "__" in a name stands for "."; `number` is the node's id, the next free one by default.
        """
        values = {name.replace("__", "."): value for name, value in values.items()}
        info = matched(self._object_info[kind], values)
        types = {one.name: one.type for one in active_inputs(info["input"], values)}
        if unknown := values.keys() - types.keys():
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}; it has {', '.join(types)}.")
        wired = {n: v.of_type(types[n]) if isinstance(v, Node) else v for n, v in values.items()}
        made = Node(number or self._free_number(), kind, info, title or info["display_name"] or kind, wired)
        return self._add(made)

    def note(self, text: str) -> Node:
        """Adds a note in Markdown; it is no part of the API form."""
        info = {"input": {}, "output": [], "output_name": []}
        return self._add(Node(_NOTES + len(self.nodes), NOTE, info, "Read me", {}, text))

    def _add(self, node: Node) -> Node:
        self.nodes.append(node)
        self.lanes[-1][-1].columns[-1].append(node)
        return node

    def _free_number(self) -> int:
        return max((node.id for node in self.nodes if node.type != NOTE), default=0) + 1
