"""Samples a large model on the card, by stock ComfyUI and by two workers: seconds, fidelity, memory and parking.

The model has a third of FLUX's blocks, on a card with less memory a ninth, at full width with random weights, 1024 x
1024, bfloat16. On one card both workers share its multiprocessors, so their seconds show the cost of the exchange, not
a speedup; on two cards (large-2) they show the speedup.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FULL = {"hidden_size": 3072, "num_heads": 24, "depth": 6, "depth_single_blocks": 13, "side": 128, "text": 512}
THIN = FULL | {"depth": 2, "depth_single_blocks": 4}
LARGE_CARD = 40 << 30
"""Bytes of memory that a card needs for the FULL model in three processes."""
SMALL = {"hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "side": 16, "text": 16}
STEPS = 10


def write(path: Path, size: dict[str, int], device: str) -> None:
    """Writes a model file that UNETLoader can load."""
    import comfy.ldm.flux.model
    import comfy.ops
    import safetensors.torch
    import torch

    model = comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=size["hidden_size"],
        mlp_ratio=4.0, num_heads=size["num_heads"], depth=size["depth"],
        depth_single_blocks=size["depth_single_blocks"], axes_dim=[16, 56, 56], theta=10000, patch_size=2,
        qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.bfloat16, device="meta",
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    generator = torch.Generator(device).manual_seed(0)

    def weight(name: str, shape: torch.Size) -> torch.Tensor:
        x = torch.randn(shape, generator=generator, device=device)
        if len(shape) > 1:
            return (x / shape[-1] ** 0.5).bfloat16().cpu()
        return (0.1 * x + float("norm" in name and name.endswith(("weight", "scale")))).bfloat16().cpu()

    safetensors.torch.save_file({name: weight(name, x.shape) for name, x in model.state_dict().items()}, path)


def memory(pid: int) -> dict[str, int]:
    """Resident, proportional and private dirty bytes of a process."""
    found = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss", "Private_Dirty"):
                found[name] = 1024 * int(rest.split()[0])
    return found


def run(tell: Callable) -> None:
    import comfy.model_management as management
    import comfy.sample
    import comfy.sd
    import sampling
    import torch
    from comfy.cli_args import args
    from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig
    from device import CARDS, DEVICE

    sys.argv[1:], args.fp32_unet = [], False  # fp32_unet is set for the tiny models of the tests
    size = SMALL
    if DEVICE != "cpu":
        size = FULL if torch.cuda.get_device_properties(DEVICE).total_memory >= LARGE_CARD else THIN
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "large.safetensors"
    started = time.monotonic()
    write(path, size, DEVICE)
    tell(blocks=[size["depth"], size["depth_single_blocks"]], cards=CARDS)
    tell(bytes=path.stat().st_size, writing_seconds=time.monotonic() - started)
    loaded = comfy.sd.load_diffusion_model(str(path))
    generator = torch.Generator().manual_seed(1)
    text = torch.randn((1, size["text"], 4096), generator=generator)
    positive = [[text, {"pooled_output": torch.randn((1, 768), generator=generator), "guidance": 3.5}]]
    latent = torch.zeros((1, 16, size["side"], size["side"]))
    noise = comfy.sample.prepare_noise(latent, 1)

    def sample(patcher, steps: int = STEPS) -> tuple[torch.Tensor, float, float]:
        """(samples, total seconds, seconds per step after the first)."""
        moments = []
        started = time.monotonic()
        with torch.inference_mode():
            x = comfy.sample.sample(
                patcher, noise, steps, 1.0, "euler", "simple", positive, positive, latent,
                callback=lambda *_: moments.append(time.monotonic()), disable_pbar=True, seed=1,
            )  # fmt: skip
            if DEVICE != "cpu":
                torch.cuda.synchronize()
        ended = time.monotonic()
        return x.float(), ended - started, (ended - moments[0]) / (steps - 1)

    def decibels(x: torch.Tensor, y: torch.Tensor) -> float:
        return round(float(10 * torch.log10(y.square().mean() / (x - y).square().mean().clamp(min=1e-30))), 1)

    sample(loaded, 2)
    stock, _, seconds = sample(loaded)
    tell(stock_seconds_per_step=seconds, attention=_attention_name())
    tell(stock_twice_decibels=decibels(sample(loaded)[0], stock))
    ways = {
        "all_gather 2": {"ring_degree": 2},
        "ulysses 2": {"ulysses_degree": 2},
        "all_gather 2, int8": {"ring_degree": 2, "compression": "int8"},
        "all_gather 2, 2bit": {"ring_degree": 2, "compression": "2bit"},
        "ulysses 2, 2bit": {"ulysses_degree": 2, "compression": "2bit"},
        "displaced 2": {"ring_degree": 2, "ring_exchange": "displaced"},
    }
    found = {}
    for name, strategy in ways.items():
        codec = strategy.pop("compression", None)
        compression = CompressionConfig(mode="codec", codec=codec) if codec else None
        x, whole, seconds = sample(sampling.parallel(loaded, 2, compression, **strategy))
        report = sampling.report()
        found[name] = {
            "seconds_per_step": seconds, "whole_seconds": whole, "sampling_seconds": report["sampling_seconds"],
            "decibels": decibels(x, stock), "exposed": report["exposed_seconds"], "hidden": report["hidden_seconds"],
            "bytes_sent": report["bytes_sent"], "ratio": report["effective_ratio"], "warnings": report["warnings"],
        }  # fmt: skip
        tell(ways=found)
    workers = sampling.pool(2).status()["workers"]
    tell(link=sampling.pool(2).link, workers=workers, host=[memory(worker["pid"]) for worker in workers])
    parking = []
    for _ in range(2):
        started = time.monotonic()
        management.unload_all_models()
        parked = time.monotonic() - started
        after = [worker["device_bytes"] for worker in sampling.pool(2).status()["workers"]]
        host = [memory(worker["pid"]) for worker in workers]
        _, whole, _ = sample(sampling.parallel(loaded, 2, ring_degree=2), 2)
        parking.append({"parking_seconds": parked, "left": after, "host": host, "two_steps_after_seconds": whole})
        tell(parking=parking)
    sampling.pool(2).stop()
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2)
    x, whole, seconds = sample(sampling.parallel(loaded, 1, step_reuse=reuse))
    report = sampling.report()
    tell(one_worker_step_reuse={"sampling_seconds": report["sampling_seconds"], "accepted": report["accepted"],
                                "decibels": decibels(x, stock), "warnings": report["warnings"]})  # fmt: skip
    sampling.pool(1).stop()
    folder.cleanup()


def _attention_name() -> str:
    from comfy.ldm.modules.attention import optimized_attention

    return getattr(optimized_attention, "__name__", str(optimized_attention))
