"""What the workflows have in common: the note, the Parallel nodes and what shows the result."""

from __future__ import annotations

from typing import Any

from .files import FILES, file_list
from .graph import Graph, Node

BLUE, PURPLE, GREEN, RED, AMBER, GREY = "#3f789e", "#88A", "#3f9e5f", "#A88", "#b58b2a", "#666"

DEVICES = (
    "**Devices** Parallel Worker Pool says `auto`: one worker per CUDA device. Name them (`cuda:0,cuda:1`) to keep one "
    "free. With a single device ComfyUI samples as if the Parallel nodes were not there."
)
FIRST = "The first run starts the workers and loads the model in each of them; later runs find them warm."
COMPRESS = (
    "**Residual Compression** `auto` compresses only where the measured link between the devices makes it pay; `off` "
    "is exact, `ratio`, `quality` and `codec` are yours to choose."
)


def read_me(graph: Graph, title: str, about: str, files: list[str], *advice: str) -> Node:
    """The first lane: what this workflow is, which files it wants and where they go, and what to change."""
    graph.lane()
    graph.group("Read me", GREY)
    wanted = f"**Files it expects** (in ComfyUI's folder)\n\n{file_list(files)}" if files else ""
    paragraphs = [f"## {title}", about, wanted, *advice]
    return graph.note("\n\n".join(paragraph for paragraph in paragraphs if paragraph))


def real_advice(*more: str) -> list[str]:
    """What every workflow for real weights says."""
    return [*more, DEVICES, FIRST]


def model_lane(graph: Graph) -> None:
    """What follows are loaders."""
    graph.lane()
    graph.group("Model", BLUE)


def prompts(graph: Graph, clip: Node, positive: str, negative: str | None = None) -> tuple[Node, ...]:
    """One or two prompts in a lane of their own, under which the Parallel nodes go."""
    graph.lane()
    graph.group("Prompt", PURPLE)
    made = [graph.node("CLIPTextEncode", "Positive Prompt", clip=clip, text=positive)]
    if negative is not None:
        made.append(graph.node("CLIPTextEncode", "Negative Prompt", clip=clip, text=negative))
    return tuple(made)


def parallel(
    graph: Graph,
    *models: Node,
    compression: bool = False,
    look_ahead: int = 0,
    titles: tuple[str, ...] = ("Parallel Model",),
) -> list[Node]:
    """The Parallel nodes for these models; `look_ahead` 0 leaves Step Reuse off."""
    graph.group("Parallel", GREEN)
    pool = graph.node("CompactParallelPool", devices="auto")
    strategy = graph.node("CompactParallelStrategy", mode="auto")
    graph.column()
    inputs: dict[str, Any] = {"pool": pool, "strategy": strategy}
    if compression:
        inputs["compression"] = graph.node("CompactParallelCompression", mode="auto")
    reuse = {"mode": "look_ahead", "mode__look_ahead": look_ahead} if look_ahead else {"mode": "off"}
    inputs["step_reuse"] = graph.node("CompactParallelStepReuse", **reuse)
    graph.column()
    return [graph.node("CompactParallelModel", title, model=model, **inputs) for model, title in zip(models, titles)]


def sampling_lane(graph: Graph) -> None:
    """What follows samples."""
    graph.lane()
    graph.group("Sampling", RED)


def decoded(graph: Graph, latent: Node, vae: Node, *, tiled: bool = False) -> Node:
    """The result lane up to the decoded pictures, and what Parallel Report says of the run."""
    graph.lane()
    graph.group("Result", AMBER)
    report = graph.node("CompactParallelReport", latent=latent)
    graph.node("PreviewImage", "Plot", images=report)
    graph.node("PreviewAny", "Summary", source=report["summary"])
    graph.column()
    kind = "VAEDecodeTiled" if tiled else "VAEDecode"
    sizes = {"tile_size": 256, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8} if tiled else {}
    return graph.node(kind, "VAE Decode", samples=report, vae=vae, **sizes)


def save_picture(graph: Graph, latent: Node, vae: Node, prefix: str) -> None:
    """Decodes and saves pictures."""
    pictures = decoded(graph, latent, vae)
    graph.node("SaveImage", images=pictures, filename_prefix=prefix)


def save_video(graph: Graph, latent: Node, vae: Node, prefix: str, fps: float, *, tiled: bool = False) -> None:
    """Decodes and saves a video."""
    video = graph.node("CreateVideo", images=decoded(graph, latent, vae, tiled=tiled), fps=fps)
    graph.node("SaveVideo", video=video, filename_prefix=prefix)


def files_of(graph: Graph) -> list[str]:
    """Every known model file that the nodes name, in order."""
    named = [
        value for node in graph.nodes for value in node.values.values() if isinstance(value, str) and value in FILES
    ]
    return list(dict.fromkeys(named))
