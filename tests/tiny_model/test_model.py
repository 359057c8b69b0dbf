"""The shipped tiny model: its size, that stock loaders take it, and that its pictures follow the prompt."""

from __future__ import annotations

import pytest
import tiny_picture
import torch

COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 210)}


def test_both_files_together_are_at_most_40_megabytes():
    files = [*tiny_picture.MODELS.glob("diffusion_models/*"), *tiny_picture.MODELS.glob("vae/*")]
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 40_000_000


@torch.inference_mode()
def test_the_stock_loaders_take_them():
    assert type(tiny_picture.model().model).__name__ == "Flux"
    assert tiny_picture.model().model.get_dtype() == torch.float32
    pixels = tiny_picture.vae().encode(torch.full((1, 64, 64, 3), 0.5))
    assert pixels.shape == (1, 16, 8, 8)
    assert tiny_picture.picture(pixels).shape == (1, 64, 64, 3)


@pytest.fixture(scope="module")
def centres():
    """Mean colour (3,) of the middle of a picture for each colour asked for, and of its corner."""
    found = {}
    for number, colour in enumerate(COLOURS):
        choices = {"shape": "circle", "colour": colour, "background": "white", "texture": "plain", "position": "centre"}
        samples = tiny_picture.sample_prompt(tiny_picture.model(), choices, seed=number, steps=10)
        pixels = tiny_picture.picture(samples)[0]
        found[colour] = (pixels[240:272, 240:272].mean((0, 1)), pixels[:32, :32].mean((0, 1)))
    return found


@pytest.mark.parametrize("asked", COLOURS)
def test_the_shape_has_the_colour_asked_for_and_the_background_its_own(centres, asked):
    centre, corner = centres[asked]
    distances = {name: float((centre - torch.tensor(rgb) / 255).norm()) for name, rgb in COLOURS.items()}
    assert min(distances, key=distances.get) == asked
    assert corner.min() > 0.8  # white
    assert centre.min() < 0.6  # and the shape is not
