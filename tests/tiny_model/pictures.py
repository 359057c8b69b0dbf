"""Procedural pictures: one paper-cut figure with a soft shadow on a tinted ground, at any resolution.

B scenes, H rows, W columns; lengths are fractions of the picture's side, y points down.
"""

import math
from dataclasses import dataclass

import torch
from environment import encoding
from torch import Tensor

COLOURS = torch.tensor([
    [0.86, 0.16, 0.18], [0.97, 0.52, 0.10], [0.98, 0.84, 0.16], [0.16, 0.64, 0.27],
    [0.14, 0.36, 0.84], [0.55, 0.20, 0.68],
])  # fmt: skip
BACKGROUNDS = torch.tensor([
    [0.95, 0.95, 0.95], [0.60, 0.61, 0.63], [0.90, 0.81, 0.64], [0.71, 0.89, 0.80],
    [0.94, 0.74, 0.77], [0.13, 0.17, 0.31],
])  # fmt: skip
SHAPE, COLOUR, BACKGROUND, TEXTURE, POSITION = range(5)
TEXTURE_PERIOD = 1 / 11
SHADOW = 0.018


@dataclass
class Scenes:
    """B scenes: everything that determines the pictures except the resolution."""

    attributes: Tensor
    """Long [B, 5], 0-based (no "any")."""
    centre: Tensor
    """[B, 2] as (x, y)."""
    radius: Tensor
    """[B]."""
    angle: Tensor
    """[B] in radians."""
    brightness: Tensor
    """[B, 2]: factors on figure and ground."""

    def __len__(self) -> int:
        return len(self.attributes)


def random_attributes(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent uniform attributes, long [count, 5], 0-based."""
    columns = [torch.randint(len(v), (count,), generator=generator) for v in encoding.ATTRIBUTES.values()]
    return torch.stack(columns, dim=1)


def random_scenes(attributes: Tensor, generator: torch.Generator | None = None) -> Scenes:
    """Adds jitter of place, size, angle and brightness to attributes [B, 5]."""
    count = len(attributes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    position = attributes[:, POSITION]
    cell = torch.stack((position % 3, position // 3), dim=1)
    return Scenes(
        attributes=attributes,
        centre=0.5 + 0.21 * (cell - 1) + uniform(-0.006, 0.006, 2),
        radius=uniform(0.208, 0.220),
        angle=uniform(-0.03, 0.03),
        brightness=uniform(0.97, 1.03, 2),
    )


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    """Signed distance to a rectangle around the origin."""
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _star(x: Tensor, y: Tensor, points: int, outer: float, inner: float) -> Tensor:
    """Signed distance to a star that points up: folded into one half spike, which is a single line segment."""
    half = math.pi / points
    angle = (torch.remainder(torch.atan2(x, -y) + half, 2 * half) - half).abs()
    radius = torch.hypot(x, y)
    u, v = radius * angle.cos() - outer, radius * angle.sin()
    edge_u, edge_v = inner * math.cos(half) - outer, inner * math.sin(half)
    along = ((u * edge_u + v * edge_v) / (edge_u**2 + edge_v**2)).clamp(0, 1)
    return torch.hypot(u - edge_u * along, v - edge_v * along).copysign(edge_u * v - edge_v * u).neg()


_DISTANCES = (
    lambda x, y: torch.hypot(x, y) - 0.92,
    lambda x, y: _box(x, y, 0.8, 0.8),
    lambda x, y: _star(x, y, 3, 1.12, 0.56),
    lambda x, y: _star(x, y, 5, 1.12, 0.50),
    lambda x, y: (torch.hypot(x, y) - 0.72).abs() - 0.26,
    lambda x, y: torch.minimum(_box(x, y, 1.0, 0.34), _box(x, y, 0.34, 1.0)),
)
"""Per shape: signed distance at (x, y) in units of the figure's radius, negative inside."""


def _pattern(texture: int, x: Tensor, y: Tensor, size: int) -> Tensor | float:
    """Share of the light shade at (x, y): 0 for plain, anti-aliased stripes or dots otherwise."""
    x, y = x / TEXTURE_PERIOD, y / TEXTURE_PERIOD
    if texture == 0:
        return 0.0
    stripes = texture == 1
    edge = ((x + y).frac().abs() - 0.5).abs() - 0.25 if stripes else 0.30 - torch.hypot(x - x.round(), y - y.round())
    return (0.5 + edge * (TEXTURE_PERIOD * size)).clamp(0, 1)


def _draw_one(scenes: Scenes, index: int, x: Tensor, y: Tensor, size: int) -> Tensor:
    """One picture [3, H, W] at pixel centres x [W] and y [H, 1]."""
    shape, colour, background, texture, _ = scenes.attributes[index].tolist()
    (centre_x, centre_y), radius, angle = (x[index].tolist() for x in (scenes.centre, scenes.radius, scenes.angle))
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    figure_light, ground_light = scenes.brightness[index].tolist()

    def turned(shift: float) -> tuple[Tensor, Tensor]:
        dx, dy = x - centre_x - shift, y - centre_y - shift
        return cos * dx + sin * dy, cos * dy - sin * dx

    ground = BACKGROUNDS[background][:, None, None] * (ground_light * (1.04 - 0.14 * y))
    shadow = (0.5 - _DISTANCES[shape](*turned(SHADOW)) * (radius / 0.05)).clamp(0, 1)
    u, v = turned(0)
    pattern = _pattern(texture, u * radius, v * radius, size)
    dark = (COLOURS[colour] * figure_light)[:, None, None]
    figure = (dark + 0.55 * (1 - dark) * pattern) * (1 - 0.12 * (u + v).clamp(-1, 1))
    cover = (0.5 - _DISTANCES[shape](u, v) * (radius * size)).clamp(0, 1)
    return torch.lerp(ground * (1 - 0.35 * shadow), figure, cover.expand(3, -1, -1)).clamp(0, 1)


def draw(scenes: Scenes, size: int, corner: Tensor | None = None, window: int | None = None) -> Tensor:
    """Draws scenes [B] as pictures of size x size pixels, or only a window of them.

    Args:
        corner: long [B, 2], the window's top left pixel as (x, y); the whole picture if None.
        window: the window's side in pixels.
    Returns:
        [B, 3, H, W] in 0..1, H = W = window or size.
    """
    window = window or size
    corner = torch.zeros(len(scenes), 2) if corner is None else corner
    ruler = torch.arange(window) + 0.5
    pictures = [
        _draw_one(scenes, i, (left + ruler) / size, (top + ruler)[:, None] / size, size)
        for i, (left, top) in enumerate(corner.tolist())
    ]
    return torch.stack(pictures)


def draw_crops(count: int, size: int, window: int, generator: torch.Generator | None = None) -> Tensor:
    """Crops [count, 3, window, window] near the figures of random pictures of the given size."""
    scenes = random_scenes(random_attributes(count, generator), generator)
    spread = 2.4 * scenes.radius[:, None] * (torch.rand(count, 2, generator=generator) - 0.5)
    corner = ((scenes.centre + spread) * size - window / 2).round().clamp(0, size - window)
    return draw(scenes, size, corner, window)
