"""The ComfyUI extension of this pack: registers its nodes, routes and hooks, and the folder of the tiny demo model."""

import logging

import folder_paths
from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from ..runtime.comfy.fits import against, misfits
from ..runtime.comfy.seam import EARLY, PANEL
from .compare import CompactParallelCompare
from .compression import CompactParallelCompression
from .demo_pipeline import MODELS
from .demo_prompt import CompactParallelDemoPrompt
from .live import forward_events
from .locales import add_translations
from .parallel_model import CompactParallelModel
from .parallel_pipeline import CompactParallelPipeline
from .report import CompactParallelReport
from .routes import add_routes
from .sample_pipeline import CompactParallelPipelineSample
from .settings import apply_settings
from .step_reuse import CompactParallelStepReuse
from .strategy import CompactParallelStrategy
from .validation import forget, remember
from .worker_pool import CompactParallelPool

log = logging.getLogger(__name__)


class CompactParallelExtension(ComfyExtension):
    """The pack as a ComfyUI extension."""

    async def on_load(self) -> None:
        """Makes the tiny demo model visible to the loaders, warns of internals of ComfyUI that do not fit,
        applies the settings, and adds routes, browser events, translations and validation."""
        for kind in ("diffusion_models", "vae", "diffusers"):
            folder_paths.add_model_folder_path(kind, str(MODELS / kind))
        for misfit in misfits():
            log.warning("%s", misfit.sentence)
        apply_settings()
        if not against(PANEL):
            add_routes(PromptServer.instance.routes)
            forward_events(PromptServer.instance)
        if not against(EARLY):
            PromptServer.instance.app.middlewares.extend((add_translations, forget))
            PromptServer.instance.add_on_prompt_handler(remember)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return [
            CompactParallelModel,
            CompactParallelPool,
            CompactParallelStrategy,
            CompactParallelCompression,
            CompactParallelStepReuse,
            CompactParallelPipeline,
            CompactParallelPipelineSample,
            CompactParallelReport,
            CompactParallelCompare,
            CompactParallelDemoPrompt,
        ]


async def comfy_entrypoint() -> CompactParallelExtension:
    """The entry point that ComfyUI calls."""
    return CompactParallelExtension()
