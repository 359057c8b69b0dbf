"""The node Parallel Worker Pool: the devices of the worker processes."""

from typing import Any

from comfy_api.latest import io

from ..runtime.comfy.run.devices import devices_of
from ..runtime.config import BACKENDS, ConfigError, ParallelConfig, PoolConfig
from .types import CATEGORY, ParallelPool
from .validation import Inputs, verdict

DEFAULT = PoolConfig()


class CompactParallelPool(io.ComfyNode):
    """Chooses the devices of a pool of workers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelPool",
            display_name="Parallel Worker Pool",
            category=CATEGORY,
            description=(
                "Names the worker processes that sample together: one per device. They start with the first run, stay "
                "warm, and stop after fifteen minutes without work (see Settings) or with ComfyUI."
            ),
            search_aliases=["workers", "devices", "gpu list", "ray init"],
            inputs=[
                io.String.Input(
                    "devices",
                    default=DEFAULT.devices,
                    optional=True,
                    tooltip=(
                        'One device per worker: "auto" (all CUDA devices of about one size, else two CPU workers), '
                        '"cuda:0,cuda:1", "cpu,cpu", "cpu*4", or "cuda:0*2" for two workers on one device.'
                    ),
                ),
                io.Combo.Input(
                    "backend",
                    options=list(BACKENDS),
                    default=DEFAULT.backend,
                    optional=True,
                    tooltip=(
                        "How workers talk: nccl between GPUs, gloo for everything else (CPU, or two workers on one "
                        "GPU). auto chooses."
                    ),
                ),
                io.String.Input(
                    "name",
                    default=DEFAULT.name,
                    optional=True,
                    tooltip=(
                        "Pools with different names live side by side. The same name with other devices replaces the "
                        "pool."
                    ),
                ),
                io.Float.Input(
                    "start_timeout_s",
                    default=DEFAULT.start_timeout_s,
                    min=1.0,
                    max=3600.0,
                    step=1.0,
                    optional=True,
                    tooltip="Seconds the workers may take to start before the run fails.",
                ),
            ],
            outputs=[ParallelPool.Output(tooltip="Plug into Parallel Model or Parallel Pipeline.")],
        )

    @classmethod
    def validate_inputs(cls, devices: Any = None) -> bool | str:
        """Checks, before anything runs, that the devices exist and the backend can use them."""
        return verdict(cls, "devices", _wrong_devices)

    @classmethod
    def execute(
        cls,
        devices: str = DEFAULT.devices,
        backend: str = DEFAULT.backend,
        name: str = DEFAULT.name,
        start_timeout_s: float = DEFAULT.start_timeout_s,
    ) -> io.NodeOutput:
        return io.NodeOutput(PoolConfig(devices, backend, name, start_timeout_s))


def _wrong_devices(inputs: Inputs) -> str:
    given = {name: inputs[name] for name in ("devices", "backend") if name in inputs}
    if isinstance(given.get("devices"), list) or given.get("backend", DEFAULT.backend) not in BACKENDS:
        return ""  # the value comes from a link, or ComfyUI itself refuses it
    try:
        devices_of(ParallelConfig(pool=PoolConfig(**given)))
    except ConfigError as error:
        return str(error)
    return ""
