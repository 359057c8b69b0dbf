"""Known values of the picture metrics."""

import math

import pytest
import torch
from compact_parallel.runtime.report.metrics import psnr, relative_error, ssim


@pytest.fixture
def picture():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(1, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(smooth, size=(48, 40), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


def test_relative_error_is_largest_difference_over_largest_value():
    reference = torch.tensor([1.0, -4.0, 0.0])
    assert relative_error(reference, reference) == 0.0
    assert relative_error(torch.tensor([1.0, -4.0, 1.0]), reference) == 0.25
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0.0
    assert relative_error(torch.ones(2), torch.zeros(2)) == math.inf
    assert math.isnan(relative_error(torch.tensor([math.nan]), torch.ones(1)))


def test_psnr_of_a_known_difference(picture):
    assert psnr(picture, picture) == math.inf
    assert psnr(picture + 0.1, picture) == pytest.approx(20.0, abs=1e-4)
    assert psnr(picture + 0.01, picture) == pytest.approx(40.0, abs=1e-4)
    assert psnr(picture * 255 + 25.5, picture * 255, peak=255) == pytest.approx(20.0, abs=1e-4)


def test_ssim_of_equal_pictures_is_one(picture):
    assert ssim(picture, picture) == pytest.approx(1.0, abs=1e-12)


def test_ssim_of_constants_is_the_luminance_term():
    a, b, c1 = 0.3, 0.6, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(torch.full((1, 16, 16, 3), a), torch.full((1, 16, 16, 3), b)) == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_the_definition_at_one_window(picture):
    """The one window of an 11 x 11 picture, by the formula of the paper over plain numbers."""
    x, y = picture[0, :11, :11, 0].flatten().tolist(), picture[0, 11:22, 11:22, 0].flatten().tolist()
    weights = [math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for i in range(11) for j in range(11)]
    total, c1, c2 = sum(weights), 0.01**2, 0.03**2

    def mean(values):
        return sum(weight * value for weight, value in zip(weights, values)) / total

    def moment(p, q):
        return mean([(a - mean(p)) * (b - mean(q)) for a, b in zip(p, q)])

    luminance = (2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
    structure = (2 * moment(x, y) + c2) / (moment(x, x) + moment(y, y) + c2)
    expected = luminance * structure
    assert ssim(picture[:, :11, :11, :1], picture[:, 11:22, 11:22, :1]) == pytest.approx(expected, abs=1e-6)


def test_ssim_sees_noise_and_inversion(picture):
    """Negative controls: a measure that is always near one would pass the tests above."""
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    little, much = ssim(picture + 0.01 * noise, picture), ssim(picture + 0.2 * noise, picture)
    assert 0.9 < little < 1 and much < 0.6
    assert ssim(1 - picture, picture) < 0


def test_shapes_must_be_equal_and_large_enough(picture):
    for metric in (psnr, ssim, relative_error):
        with pytest.raises(ValueError, match="shapes differ"):
            metric(picture, picture[:, 1:])
    with pytest.raises(ValueError, match="smaller than"):
        ssim(picture[:, :10], picture[:, :10])
