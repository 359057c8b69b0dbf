"""The node Parallel Pipeline: a pipeline in diffusers' layout that runs on the pool."""

import importlib
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..runtime.attention import exchanges
from ..runtime.attention.unsupported import Unsupported
from ..runtime.comfy.fits import against
from ..runtime.comfy.run.devices import devices_of
from ..runtime.comfy.seam import EVERYTHING
from ..runtime.compression import codecs
from ..runtime.config import (
    CompressionConfig,
    ConfigError,
    ParallelConfig,
    PoolConfig,
    StepReuseConfig,
    StrategyConfig,
    XditConfig,
)
from ..runtime.pipelines.folder import INDEX, inspect_folder
from ..runtime.pipelines.job import DTYPES, ENGINES, XDIT, PipelineChoice
from ..runtime.pipelines.packages import require_xfuser
from .demo_pipeline import complete
from .plugs import plugs
from .settings import DEFAULT_DEVICES, default_pool, stored
from .types import CATEGORY, ParallelPipeline, chosen
from .validation import Inputs, verdict

KIND = "diffusers"
"""ComfyUI's kind of model folders in which pipelines are looked for."""


class CompactParallelPipeline(io.ComfyNode):
    """Chooses a pipeline for the pool."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CompactParallelPipeline",
            display_name="Parallel Pipeline",
            category=CATEGORY,
            accept_all_inputs=True,  # lets validate_inputs see an engine that does not exist (any more)
            description=(
                "A pipeline of diffusers, on all your devices: for models that ComfyUI has no loader for, such as "
                "AudioLDM2 or Latte, and for folders in diffusers' layout that you have already. The workers load it "
                "themselves; nothing is downloaded and no code of the folder is run."
            ),
            search_aliases=["diffusers", "xdit", "xfuser", "audioldm2", "latte", "cogvideox", "pipeline"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=pipeline_folders() or [""],
                    optional=True,
                    tooltip="A folder with a model_index.json in models/diffusers.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    optional=True,
                    tooltip="A folder with a model_index.json anywhere else; if it is given, folder does not count.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=DTYPES[0],
                    optional=True,
                    tooltip="The precision to compute in. auto: as the files are stored.",
                ),
                *plugs(),
                io.DynamicCombo.Input(
                    "engine",
                    optional=True,
                    tooltip=(
                        "diffusers: the pipeline itself, shared out by this pack. xdit: xDiT's own parallel pipeline, "
                        "where it has one (Flux, PixArt and others)."
                    ),
                    options=[
                        io.DynamicCombo.Option(ENGINES[0], []),
                        io.DynamicCombo.Option(ENGINES[1], _of_xdit()),
                    ],
                ),
            ],
            outputs=[ParallelPipeline.Output(tooltip="Plug into Sample Pipeline.")],
        )

    @classmethod
    def validate_inputs(cls, folder: Any = None, *, engine: Any = None) -> bool | str:
        """Checks, before anything runs, that the engine exists and has these inputs, and that the folder is there.

        What it says is shown at each positional argument, so there is one.
        """
        return verdict(cls, "folder", _absent)

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", path: str = "", **inputs: Any) -> str:
        """Changes with the default devices and with the folder's index, so that ComfyUI runs the node again."""
        index = Path(path or full_path(folder)) / INDEX
        return f"{stored(DEFAULT_DEVICES, '')} {index.stat().st_mtime_ns if index.is_file() else 0}"

    @classmethod
    def execute(
        cls,
        folder: str = "",
        path: str = "",
        dtype: str = DTYPES[0],
        pool: PoolConfig | None = None,
        strategy: StrategyConfig | None = None,
        compression: CompressionConfig | None = None,
        step_reuse: StepReuseConfig | None = None,
        engine: dict | None = None,
        **idle: Any,
    ) -> io.NodeOutput:
        """`idle` has the inputs of engines that are not chosen; they are ignored."""
        if misfit := against(EVERYTHING):
            raise Unsupported(misfit.sentence)
        given = chosen(engine, "diffusers", "engine")
        name = given.pop("engine")
        config = ParallelConfig(
            pool=pool or default_pool(),
            strategy=strategy or StrategyConfig(),
            compression=compression or CompressionConfig(),
            step_reuse=step_reuse or StepReuseConfig(),
        )
        exchanges.require_known(config.strategy)
        codecs.require_known(config.compression)
        devices_of(config)
        where = path or full_path(folder)
        if not where:
            raise ConfigError(
                f"folder: there is no folder with a {INDEX} in models/diffusers; put one there, or name one in path."
            )
        complete(Path(where))
        inspect_folder(Path(where))
        if name == XDIT:
            require_xfuser()
        # On some ComfyUIs this import fails.
        run = importlib.import_module("..runtime.comfy.run.pipeline_run", __package__).PipelineRun
        return io.NodeOutput(run(PipelineChoice(where, dtype, name, XditConfig(**given)), config))


def pipeline_folders() -> list[str]:
    """The folders with pipelines, below ComfyUI's folders for them; links are followed, as to folders elsewhere."""
    found = set()
    for root in folder_paths.get_folder_paths(KIND):
        for place, folders, files in os.walk(root, followlinks=True):
            if INDEX in files and place != root:
                found.add(Path(place).relative_to(root).as_posix())
                folders.clear()  # its parts are no pipelines
    return sorted(found)


def full_path(folder: str) -> str:
    """The path of one of `pipeline_folders`; "" without a name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(KIND)] if folder else []
    return next((str(root / folder) for root in roots if (root / folder / INDEX).is_file()), folder)


def _absent(inputs: Inputs) -> str:
    """A sentence if the chosen folder is not there; "" where a path or a link stands for it."""
    folder = inputs.get("folder", "")
    if inputs.get("path") or isinstance(folder, list) or folder in ("", *(found := pipeline_folders())):
        return ""
    others = f"choose one of {', '.join(found)}, " if found else ""
    return f"folder is {folder!r}, which is not in models/diffusers; {others}put it there, or name its place in path."


def _of_xdit() -> list[io.Input]:
    default = XditConfig()
    return [
        io.Int.Input(
            "pipefusion_degree",
            default=default.pipefusion_degree,
            min=1,
            max=64,
            optional=True,
            tooltip="Stages of PipeFusion: workers that hold a part of the model each. 1: none.",
        ),
        io.Int.Input(
            "patches",
            default=default.patches,
            min=0,
            max=64,
            optional=True,
            tooltip="Patches of the picture that go through the stages in turn. 0: as many as stages.",
        ),
        io.Int.Input(
            "warmup_steps",
            default=default.warmup_steps,
            min=1,
            max=1000,
            optional=True,
            tooltip=(
                "First steps in which PipeFusion waits for all patches, which is exact. After them it takes what the "
                "last step knew of the other patches, so the picture changes a little."
            ),
        ),
    ]
