"""The sampler and the scheduler."""

import math

import torch
from server import PromptServer


def cosine(n, sigma_min, sigma_max, device="cpu"):
    """Noise levels along half a cosine, with the end."""
    waves = [0.5 + 0.5 * math.cos(math.pi * step / n) for step in range(n)]
    return torch.tensor([sigma_min + (sigma_max - sigma_min) * wave for wave in waves] + [0.0], device=device)


@torch.no_grad()
def sample_fixture_midpoint(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """The midpoint method, which tells ComfyUI's front end of every step."""
    ones = x.new_ones([x.shape[0]])
    for step in range(len(sigmas) - 1):
        sigma, following = sigmas[step], sigmas[step + 1]
        denoised = model(x, sigma * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": step, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
        PromptServer.instance.send_sync("fixture_sampler.step", {"step": step})
        slope = (x - denoised) / sigma
        if following > 0:
            middle = 0.5 * (sigma + following)
            x_middle = x + slope * (middle - sigma)
            slope = (x_middle - model(x_middle, middle * ones, **extra_args)) / middle
        x = x + slope * (following - sigma)
    return x
