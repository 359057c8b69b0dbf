"""A sampler and a scheduler of the pack's own in ComfyUI's lists, and a route on its server."""

import comfy.k_diffusion.sampling
import comfy.samplers
import server
from comfy.samplers import SchedulerHandler

from .sampling import cosine, sample_fixture_midpoint

NAME = "fixture_midpoint"
SCHEDULER = "fixture_cosine"


@server.PromptServer.instance.routes.get("/fixture_sampler/order")
async def order(request):
    return server.web.json_response({"order": 2})


setattr(comfy.k_diffusion.sampling, f"sample_{NAME}", sample_fixture_midpoint)
comfy.samplers.KSampler.SAMPLERS.append(NAME)
comfy.samplers.KSAMPLER_NAMES.append(NAME)
comfy.samplers.SCHEDULER_HANDLERS[SCHEDULER] = SchedulerHandler(cosine, use_ms=False)
comfy.samplers.SCHEDULER_NAMES.append(SCHEDULER)

NODE_CLASS_MAPPINGS = {}
