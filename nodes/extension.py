"""What ComfyUI loads: the nodes, the routes, and the folder with the tiny demo model."""

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .compare import CompactParallelCompare
from .compression import CompactParallelCompression
from .demo_prompt import CompactParallelDemoPrompt
from .live import forward_events
from .parallel_model import CompactParallelModel
from .report import CompactParallelReport
from .routes import add_routes
from .step_reuse import CompactParallelStepReuse
from .strategy import CompactParallelStrategy
from .worker_pool import CompactParallelPool

MODELS = Path(__file__).resolve().parent.parent / "workflows" / "models"


class CompactParallelExtension(ComfyExtension):
    """The pack."""

    async def on_load(self) -> None:
        """Make the tiny demo model visible to the stock loaders, add our routes, tell browsers of changes."""
        for kind in ("diffusion_models", "vae"):
            folder_paths.add_model_folder_path(kind, str(MODELS / kind))
        add_routes(PromptServer.instance.routes)
        forward_events(PromptServer.instance)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return [
            CompactParallelModel,
            CompactParallelPool,
            CompactParallelStrategy,
            CompactParallelCompression,
            CompactParallelStepReuse,
            CompactParallelReport,
            CompactParallelCompare,
            CompactParallelDemoPrompt,
        ]


async def comfy_entrypoint() -> CompactParallelExtension:
    """ComfyUI's way in."""
    return CompactParallelExtension()
