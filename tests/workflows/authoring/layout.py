"""Where everything stands: columns side by side in groups, groups one above the other in lanes, lanes left to right."""

from __future__ import annotations

import re

from .graph import NOTE, Graph, Group, Node

TITLE = 30
MARGIN = 20
GAP = 40
LANE_GAP = 60
GROUP_TITLE = 50

_WIDTHS = {
    NOTE: 460,
    "CLIPTextEncode": 400,
    "CompactParallelPipelineSample": 400,
    "PreviewAny": 400,
    "LoadImage": 320,
    "CompactParallelReport": 400,
    "PreviewImage": 400,
    "ImageOnlyCheckpointLoader": 350,
}
_WIDTH = 330
_PICTURES = {"SaveImage": 330, "PreviewImage": 330, "LoadImage": 340, "SaveVideo": 330}
_PREVIEWS = dict.fromkeys(("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"), 260)
_TEXTS = {"CLIPTextEncode": 130, "PreviewAny": 130, "CompactParallelPipelineSample": 240}
_STATUS = {"CompactParallelModel": 60, "CompactParallelReport": 120, "CompactParallelCompare": 60}


def place(graph: Graph) -> list[tuple[Group, tuple[int, int, int, int]]]:
    """Gives every node its position and size, and returns the box (x, y, width, height) of every group."""
    boxes = []
    x = 0
    for lane in graph.lanes:
        y, width = 0, 0
        for group in lane:
            box = _place_group(group, x, y)
            boxes.append((group, box))
            y += box[3] + GAP
            width = max(width, box[2])
        x += width + LANE_GAP
    return boxes


def _place_group(group: Group, left: int, top: int) -> tuple[int, int, int, int]:
    x, height = left + MARGIN, 0
    for column in group.columns:
        y, width = top + GROUP_TITLE + TITLE, 0
        for node in column:
            node.size = size_of(node)
            node.position = (x, y)
            y += node.size[1] + TITLE + GAP
            width = max(width, node.size[0])
        x += width + GAP
        height = max(height, y - TITLE - GAP - top)
    return (left, top, x - GAP + MARGIN - left, height + MARGIN)


def size_of(node: Node) -> tuple[int, int]:
    """Width and height below the title; room for the picture or text that the node will show included."""
    width = _WIDTHS.get(node.type, _WIDTH)
    if node.type == NOTE:
        shown = re.sub(r"\]\([^)]*\)", "", node.text)
        return width, 50 + 17 * sum(1 + len(line) // 68 for line in shown.splitlines())
    links = sum(not one.is_widget for one in node.inputs)
    fields = sum(1 + bool(one.options.get("control_after_generate")) for one in node.inputs if one.is_widget)
    height = 16 + 20 * max(links, len(node.info["output"])) + 26 * fields
    extra = sum(more.get(node.type, 0) for more in (_PICTURES, _PREVIEWS, _TEXTS, _STATUS))
    return width, height + extra
