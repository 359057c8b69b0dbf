"""A table of the samplers that can look ahead, and how. A sampler not in it runs one call after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...sharding.origin import is_function_of

LINE = "line"
REPLAY = "replay"
SERIAL = "serial"


@dataclass(frozen=True)
class Kind:
    """How a sampler looks ahead: along a line, by replay (see replay.py), or not at all, with the reason.

    `noisy`: it adds noise at its steps. `refused`: asking it to look ahead is an error, not a warning.
    `own_steps`: the steps it reports to its callback are not those of the schedule.
    """

    way: str
    noisy: bool = False
    reason: str = ""
    refused: bool = False
    own_steps: bool = False


_DETERMINISTIC = Kind(REPLAY)
_NOISY = Kind(REPLAY, noisy=True)
_CFG_PP = Kind(
    SERIAL, reason="it also needs the negative prompt's prediction at every step, which is not exchanged between calls"
)
_ADAPTIVE = Kind(
    SERIAL,
    reason="it decides by each prediction which call comes next, so no call can be made ahead",
    refused=True,
    own_steps=True,
)
_KV_CACHE = Kind(
    SERIAL, reason="it makes a video block by block and remembers the blocks before (a KV cache)", refused=True
)
_LCM = Kind(SERIAL, reason="it starts every step from fresh noise and is made for runs of a few steps")
_OWN_NOISE = Kind(SERIAL, reason="it was given a noise sampler of another pack, whose noise cannot be asked for twice")
_UNKNOWN = Kind(SERIAL, reason="it is not known to this pack, so its calls cannot be foreseen")

_K_DIFFUSION = {
    "euler": Kind(LINE),
    "heun": _DETERMINISTIC,
    "heunpp2": _DETERMINISTIC,
    "dpm_2": _DETERMINISTIC,
    "lms": _DETERMINISTIC,
    "dpmpp_2m": _DETERMINISTIC,
    "ipndm": _DETERMINISTIC,
    "ipndm_v": _DETERMINISTIC,
    "deis": _DETERMINISTIC,
    "res_multistep": _DETERMINISTIC,
    "gradient_estimation": _DETERMINISTIC,
    "exp_heun_2_x0": _DETERMINISTIC,
    "euler_ancestral": _NOISY,
    "dpm_2_ancestral": _NOISY,
    "dpmpp_2s_ancestral": _NOISY,
    "dpmpp_sde": _NOISY,
    "dpmpp_sde_gpu": _NOISY,
    "dpmpp_2m_sde": _NOISY,
    "dpmpp_2m_sde_gpu": _NOISY,
    "dpmpp_2m_sde_heun": _NOISY,
    "dpmpp_2m_sde_heun_gpu": _NOISY,
    "dpmpp_3m_sde": _NOISY,
    "dpmpp_3m_sde_gpu": _NOISY,
    "ddpm": _NOISY,
    "res_multistep_ancestral": _NOISY,
    "exp_heun_2_x0_sde": _NOISY,
    "er_sde": _NOISY,
    "seeds_2": _NOISY,
    "seeds_3": _NOISY,
    "sa_solver": _NOISY,
    "sa_solver_pece": _NOISY,
    "lcm": _LCM,
    "euler_cfg_pp": _CFG_PP,
    "euler_ancestral_cfg_pp": _CFG_PP,
    "dpmpp_2s_ancestral_cfg_pp": _CFG_PP,
    "dpmpp_2m_cfg_pp": _CFG_PP,
    "res_multistep_cfg_pp": _CFG_PP,
    "res_multistep_ancestral_cfg_pp": _CFG_PP,
    "gradient_estimation_cfg_pp": _CFG_PP,
    "cfgpp_ud10_ab": _CFG_PP,  # ComfyUI 0.35 and later
    "ar_video": _KV_CACHE,
}

# By module and name of the sampler's function.
_KINDS: dict[tuple[str, str], Kind] = {
    **{("comfy.k_diffusion.sampling", f"sample_{name}"): kind for name, kind in _K_DIFFUSION.items()},
    ("comfy.extra_samplers.uni_pc", "sample_unipc"): _DETERMINISTIC,
    ("comfy.extra_samplers.uni_pc", "sample_unipc_bh2"): _DETERMINISTIC,
    ("comfy.samplers", "ksampler.<locals>.dpm_fast_function"): Kind(REPLAY, own_steps=True),
    ("comfy.samplers", "ksampler.<locals>.dpm_adaptive_function"): _ADAPTIVE,
}


def kind_of(sampler: Any) -> Kind:
    """How the SAMPLER `sampler` looks ahead, from its function and options."""
    function = getattr(sampler, "sampler_function", None)
    return kind_of_function(function, getattr(sampler, "extra_options", {})) if callable(function) else _UNKNOWN


def kind_of_function(function: Callable, options: Mapping[str, Any]) -> Kind:
    """How a sampler's function called with `options` looks ahead."""
    name = (getattr(function, "__module__", ""), getattr(function, "__qualname__", ""))
    # Another pack's function may have the name of the sampler it wraps (functools.wraps).
    kind = _KINDS.get(name, _UNKNOWN) if is_function_of(("comfy", "torch"), function) else _UNKNOWN
    if kind.way != SERIAL and options.get("noise_sampler") is not None:
        return _OWN_NOISE
    # Churn adds noise to a sampler that has none of its own.
    return _NOISY if kind.way != SERIAL and options.get("s_churn", 0) > 0 else kind


def name_of(sampler: Any) -> str:
    """The name of a sampler in a sentence."""
    function = getattr(sampler, "sampler_function", sampler)
    name = getattr(function, "__name__", type(function).__name__)
    return name.removeprefix("sample_").removesuffix("_function")
