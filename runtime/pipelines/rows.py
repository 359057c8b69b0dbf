"""The rows of a denoiser's call, the entries of its batch, and which of its arguments have one entry per row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .running import DenoiserCall

LATENTS = ("hidden_states", "sample")
"""The names under which denoisers take the latent, which may also be their first argument."""

TIMESTEPS = ("timestep",)
"""The name under which denoisers take the timestep, which may also be their second argument."""

NOT_OF_ROWS = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "freqs_cis", "img_shapes", "txt_seq_lens"})
"""Arguments of denoisers whose tensors are the same for all rows, even where their size is that of the batch."""


def latent_of(call: DenoiserCall) -> str | None:
    """The name under which a call is given its latent; None if it is the first argument."""
    return None if call.args else next((name for name in LATENTS if name in call.kwargs), None)


def latent_in(call: DenoiserCall) -> Tensor | None:
    """The latent (R, ...) that a call is given; None if it is no tensor, or is not found."""
    latent: Any = call.args[0] if call.args else call.kwargs.get(latent_of(call) or "")
    return latent if isinstance(latent, Tensor) else None


def with_latent(call: DenoiserCall, latent: Tensor) -> DenoiserCall:
    """The call with another latent in place of the one that it is given."""
    if call.args:
        return call._replace(args=(latent, *call.args[1:]))
    return call._replace(kwargs={**call.kwargs, latent_of(call): latent})


def rows_of(call: DenoiserCall) -> int:
    """R; 0 if the latent is no tensor, or is not found."""
    latent = latent_in(call)
    return latent.shape[0] if latent is not None and latent.ndim else 0
