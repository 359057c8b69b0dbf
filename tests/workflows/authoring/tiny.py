"""Workflows for the tiny model that comes with the pack; they run anywhere."""

from __future__ import annotations

from typing import Any

from . import parts
from .graph import Graph, Node

_ABOUT = "The tiny model that comes with this pack draws one picture of 512 x 512. It needs no files and no GPU."
_WORKERS = "The pool has two workers on the CPU, so this runs on any computer; write `auto` to use your CUDA devices."
_RING = {"mode": "manual", "mode__cfg_degree": 1, "mode__ulysses_degree": 1, "mode__ring_degree": 2}
_GATHER = {**_RING, "mode__ring_exchange": "all_gather"}


def _inputs(graph: Graph) -> dict[str, Node]:
    """Loaders, prompts and the empty latent."""
    parts.model_lane(graph)
    unet = graph.node(
        "UNETLoader",
        "Load Diffusion Model",
        number=1,
        unet_name="compact_parallel_tiny.safetensors",
        weight_dtype="default",
    )
    vae = graph.node("VAELoader", "Load VAE", number=2, vae_name="compact_parallel_tiny_vae.safetensors")
    latent = graph.node("EmptySD3LatentImage", "Empty Latent", number=5, width=512, height=512, batch_size=1)
    graph.lane()
    graph.group("Prompt", parts.PURPLE)
    prompt = {"shape": "cross", "colour": "orange", "background": "navy", "texture": "plain", "position": "centre"}
    positive = graph.node("CompactParallelDemoPrompt", "Positive Prompt", number=3, **prompt)
    graph.column()
    negative = graph.node("CompactParallelDemoPrompt", "Negative Prompt", number=4, **dict.fromkeys(prompt, "any"))
    return {"unet": unet, "vae": vae, "latent": latent, "positive": positive, "negative": negative}


def _sampler(
    graph: Graph, model: Node, given: dict[str, Node], title: str = "KSampler", number: int | None = 6, **more: Any
) -> Node:
    values = {
        "seed": 1,
        "steps": 20,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        **more,
    }
    return graph.node(
        "KSampler", title, number=number, model=model, positive=given["positive"], negative=given["negative"],
        latent_image=given["latent"], **values,
    )  # fmt: skip


def _result(graph: Graph, latent: Node, vae: Node, prefix: str) -> None:
    pictures = graph.node("VAEDecode", "VAE Decode", number=7, samples=latent, vae=vae)
    graph.node("SaveImage", "Save Image", number=8, images=pictures, filename_prefix=prefix)
    graph.column()
    graph.node("SaveLatent", "Save Latent", number=9, samples=latent, filename_prefix=f"latents/{prefix}")


def _pool_and_strategy(graph: Graph, **strategy: Any) -> dict[str, Node]:
    graph.group("Parallel", parts.GREEN)
    pool = graph.node("CompactParallelPool", "Parallel Worker Pool", number=10, devices="cpu,cpu")
    return {"pool": pool, "strategy": graph.node("CompactParallelStrategy", "Parallel Strategy", number=11, **strategy)}


def _report(graph: Graph, latent: Node, prefix: str) -> Node:
    graph.lane()
    graph.group("Report", parts.AMBER)
    report = graph.node("CompactParallelReport", "Parallel Report", number=14, latent=latent)
    graph.node("PreviewAny", "Summary", number=16, source=report["summary"])
    graph.node("PreviewAny", "Report", number=17, source=report["report"])
    graph.column()
    graph.node("SaveImage", "Save Plot", number=15, images=report, filename_prefix=f"{prefix}_plot")
    return report


def _one_run(graph: Graph, prefix: str, read_me: str, strategy: dict[str, Any], **options: dict[str, Any]) -> None:
    """The tiny model through Parallel Model; `options` are node class and inputs of what else is plugged in."""
    parts.read_me(graph, f"Tiny model: {read_me.partition('.')[0].lower()}", _ABOUT, [], read_me, _WORKERS)
    given = _inputs(graph)
    plugged = _pool_and_strategy(graph, **strategy)
    graph.column()
    kinds = {
        "compression": ("CompactParallelCompression", "Residual Compression"),
        "step_reuse": ("CompactParallelStepReuse", "Step Reuse"),
    }
    for name, inputs in options.items():
        plugged[name] = graph.node(*kinds[name], number=12, **inputs)
    model = graph.node("CompactParallelModel", "Parallel Model", number=13, model=given["unet"], **plugged)
    parts.sampling_lane(graph)
    sampler = _sampler(graph, model, given)
    report = _report(graph, sampler, prefix)
    graph.lane()
    graph.group("Result", parts.AMBER)
    _result(graph, report, given["vae"], prefix)


def stock(graph: Graph) -> None:
    """The tiny model without this pack's help."""
    parts.read_me(
        graph, "Tiny model: stock", _ABOUT, [], "No Parallel node: ComfyUI alone, to compare the others with."
    )
    given = _inputs(graph)
    parts.sampling_lane(graph)
    sampler = _sampler(graph, given["unet"], given)
    graph.lane()
    graph.group("Result", parts.AMBER)
    _result(graph, sampler, given["vae"], "tiny_stock")


def exact(graph: Graph) -> None:
    """Two workers share the tokens, nothing is compressed."""
    text = "Exact. Two workers share the tokens of the picture; nothing is compressed, so the picture is the stock one."
    _one_run(graph, "tiny_exact", text, _GATHER, compression={"mode": "off"})


def compressed(graph: Graph) -> None:
    """Two workers share the tokens, 2 bits per value."""
    text = (
        "Compressed. Two workers share the tokens of the picture and send each other only how much every value changed "
        "since the last step, in 2 bits."
    )
    _one_run(graph, "tiny", text, _GATHER, compression={"mode": "codec", "mode__codec": "2bit"})


def step_reuse(graph: Graph) -> None:
    """Two workers take neighbouring steps."""
    text = (
        "Step reuse. Two workers compute two neighbouring steps at the same time: the second starts from a guess of "
        "where the first will end. Guesses that were off are computed again; the report counts them."
    )
    options = {"mode": "look_ahead", "mode__look_ahead": 2}
    _one_run(graph, "tiny_step_reuse", text, {"mode": "manual", "mode__step_degree": 2}, step_reuse=options)


def comparison(graph: Graph) -> None:
    """Stock and parallel side by side."""
    parts.read_me(
        graph,
        "Tiny model: stock against parallel",
        _ABOUT,
        [],
        "The same seed twice: by ComfyUI alone and by two workers that compress to 2 bits. On the right: both "
        "pictures, what differs (ten times as strong as it is), the PSNR and the seconds of both.",
        "**The stock side** goes through a Parallel Model with a pool of one device: then ComfyUI samples by itself, "
        "as if the node were not there, and Parallel Report can tell its seconds.",
        "**Fair seconds** The first run also loads the model and starts the workers. Change *Seed*, queue again, and "
        "read that one.",
        "**Your own models** Replace the loaders and prompts, and write `auto` into *Workers*.",
    )
    given = _inputs(graph)
    seed = graph.node("PrimitiveInt", "Seed", value=1)
    graph.lane()
    graph.group("Stock", parts.BLUE)
    alone = graph.node("CompactParallelPool", "One Device", devices="cpu")
    unchanged = graph.node("CompactParallelModel", "Stock Model", model=given["unet"], pool=alone)
    graph.column()
    slow = _sampler(graph, unchanged, given, "Stock KSampler", None, seed=seed)
    graph.group("Parallel", parts.GREEN)
    workers = graph.node("CompactParallelPool", "Workers", devices="cpu,cpu")
    strategy = graph.node("CompactParallelStrategy", **_GATHER)
    graph.column()
    compression = graph.node("CompactParallelCompression", mode="codec", mode__codec="2bit")
    graph.column()
    model = graph.node(
        "CompactParallelModel",
        "Parallel Model",
        model=given["unet"],
        pool=workers,
        strategy=strategy,
        compression=compression,
    )
    graph.column()
    fast = _sampler(graph, model, given, "Parallel KSampler", None, seed=seed)
    graph.lane()
    graph.group("Both runs", parts.RED)
    reports = [
        graph.node("CompactParallelReport", f"{name} Report", latent=latent)
        for name, latent in (("Stock", slow), ("Parallel", fast))
    ]
    graph.column()
    pictures = [
        graph.node("VAEDecode", f"{name} Decode", samples=report, vae=given["vae"])
        for name, report in zip(("Stock", "Parallel"), reports)
    ]
    graph.lane()
    graph.group("Side by side", parts.AMBER)
    for name, picture in zip(("Stock", "Parallel"), pictures):
        graph.node("SaveImage", f"{name} Picture", images=picture, filename_prefix=f"tiny_comparison_{name.lower()}")
        graph.column()
    judged = graph.node(
        "CompactParallelCompare",
        image=pictures[1],
        reference=pictures[0],
        report=reports[1]["report"],
        reference_report=reports[0]["report"],
    )
    graph.node("PreviewAny", "Summary", source=judged["summary"])
    graph.column()
    graph.node("SaveImage", "Difference, Ten Times", images=judged, filename_prefix="tiny_comparison_difference")


def pipeline(graph: Graph) -> None:
    """The same model as a pipeline of diffusers."""
    parts.read_me(
        graph,
        "Tiny model: a pipeline of diffusers",
        _ABOUT,
        [],
        "The same model as a folder in diffusers' layout, with a text prompt. Two workers run diffusers' FluxPipeline "
        "and share the tokens of the picture. Exact.",
        "**Prompt** A shape, a colour, a background, a texture and a position, in any order; what is not named is "
        '"any", and so is the negative prompt here. Guidance above 1 needs a negative prompt.',
        '**Arguments** `{"max_sequence_length": 8}` goes to the pipeline as it is: this model knows 8 tokens of text.',
        "**Your own pipelines** Put a folder with a `model_index.json` into `models/diffusers`, reload, and choose it.",
        _WORKERS,
    )
    parts.model_lane(graph)
    pool = graph.node("CompactParallelPool", "Parallel Worker Pool", devices="cpu,cpu")
    made = graph.node("CompactParallelPipeline", "Parallel Pipeline", folder="compact_parallel_tiny", pool=pool)
    parts.sampling_lane(graph)
    sampled = graph.node(
        "CompactParallelPipelineSample", "Sample Pipeline", pipeline=made,
        prompt="an orange cross in the centre, plain, on navy", negative_prompt="any", seed=1, steps=20, guidance=3.0,
        width=512, height=512, arguments='{"max_sequence_length": 8}',
    )  # fmt: skip
    graph.lane()
    graph.group("Result", parts.AMBER)
    graph.node("SaveImage", "Save Image", images=sampled, filename_prefix="tiny_pipeline")


WORKFLOWS = {
    "tiny_stock": stock,
    "tiny_exact": exact,
    "tiny": compressed,
    "tiny_step_reuse": step_reuse,
    "tiny_comparison": comparison,
    "tiny_pipeline": pipeline,
}
