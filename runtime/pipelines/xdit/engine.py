"""Runs a pipeline of diffusers by xfuser's version of it, on the ranks of the default process group.

Nothing of the loaded pipeline is changed: xfuser gets a copy of its denoiser's modules, which share the weights, and a
copy of its scheduler. When the block ends xfuser is as it was before, so that the next run may divide the work
otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...attention.unsupported import Unsupported
from ...compression.wire import Wire
from ...config import XditConfig
from ...parallel.mesh import Degrees
from ...report.ledger import Ledger
from . import supported
from .exchange import own_exchange
from .groups import process_groups, world_group
from .latte import local_temporal_attention
from .loading import load, part
from .noise import noise_of_the_whole
from .pipefusion import pipefusion_messages
from .result import to_first
from .shims import shims
from .steps import Coasting, Progress, Steps

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@contextmanager
def xdit_pipeline(
    pipe: DiffusionPipeline,
    folder: str | Path,
    settings: XditConfig,
    degrees: Degrees,
    call_arguments: Mapping[str, Any],
    *,
    rank: int,
    world: int,
    wire: Wire | None = None,
    ledger: Ledger | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Callable[..., Any]]:
    """Divides `pipe` over the `world` ranks for the block's duration; every rank calls this and what it yields.

    Yields a function with the arguments of the pipeline's `__call__`. Its result is that of the pipeline on rank 0,
    None on the others. Call it with `call_arguments`, by which the combination is checked before anything is set up.

    Args:
        folder: from where `pipe` was loaded.
        degrees: data and step must be 1; with PipeFusion's stages they multiply to `world`.
        wire: carries the messages between ranks that share tokens, by our exchanges; without it xfuser's own do.
        on_step: called with the number of each step when it has ended (a little later than the last rank, with
            PipeFusion). If it raises on any rank, all ranks leave together at the end of the next step: that one with
            its own error, the others with pool.errors.Cancelled or AgreedError.
    Raises:
        ConfigError, Unsupported: xfuser cannot do this, or would do it wrong; on all ranks.
    """
    ledger = ledger or Ledger()
    supported.check(pipe, settings, degrees, call_arguments, world)
    device, dtype = pipe.transformer.device, pipe.transformer.dtype
    pipelines = load("xfuser.model_executor.pipelines.register")
    with ExitStack() as stack:
        stack.enter_context(shims(device, degrees.sequence))
        together = stack.enter_context(process_groups(degrees, settings.pipefusion_degree, device, world))
        staged = settings.pipefusion_degree > 1
        sends = stack.enter_context(pipefusion_messages(ledger, device)) if staged else None
        config = _engine_config(folder, settings, degrees, device, dtype)
        stack.callback(_forget_state)
        wrapped = _wrapped(part(pipelines, "xFuserPipelineWrapperRegister").get_class(pipe), pipe, config, staged)
        carried = degrees.sequence > 1 and wire is not None
        if degrees.sequence > 1:
            stack.enter_context(noise_of_the_whole(wrapped.scheduler))
            stack.enter_context(local_temporal_attention(wrapped.transformer))
        if carried:
            stack.enter_context(own_exchange(wrapped.transformer, degrees, wire, ledger))
        together.yes = True

        def run(**arguments: Any) -> Any:
            chosen = supported.arguments_for(pipe, wrapped, arguments)
            steps = Steps(on_step, world_group(), staged, sends)
            model, settle = wrapped.module.transformer, wire.settle if carried else _nothing
            together.yes = False
            with ExitStack() as calls:
                _attribute(calls, model, "forward", Coasting(model.forward, steps, ledger, _place, settle))
                _attribute(calls, wrapped.module, "progress_bar", lambda *_, **__: Progress(steps))
                try:
                    output = wrapped(**chosen)
                finally:
                    together.yes = steps.ended
            _warn_of_patches(settings, ledger)
            return to_first(output, rank, world)

        yield run


def _engine_config(
    folder: str | Path,
    settings: XditConfig,
    degrees: Degrees,
    device: torch.device,
    dtype: torch.dtype,
) -> Any:
    """xfuser's own configuration of the run."""
    xfuser, size = load("xfuser.config.config"), degrees.world * settings.pipefusion_degree
    try:
        return xfuser.EngineConfig(
            model_config=xfuser.ModelConfig(model=str(folder)),
            runtime_config=xfuser.RuntimeConfig(
                warmup_steps=settings.warmup_steps,
                dtype=dtype,
                attention_backend=_attention_backend(device, dtype, degrees.ring > 1),
            ),
            parallel_config=xfuser.ParallelConfig(
                dp_config=xfuser.DataParallelConfig(use_cfg_parallel=degrees.cfg == 2, dit_parallel_size=size),
                sp_config=xfuser.SequenceParallelConfig(degrees.ulysses, degrees.ring, dit_parallel_size=size),
                pp_config=xfuser.PipeFusionParallelConfig(
                    settings.pipefusion_degree, settings.pieces, attn_layer_num_for_pp=None, dit_parallel_size=size
                ),
                tp_config=xfuser.TensorParallelConfig(dit_parallel_size=size),
                fs_config=xfuser.FullyShardConfig(dit_parallel_size=size),
                vae_config=xfuser.VaeParallelConfig(),
                world_size=size,
                dit_parallel_size=size,
                vae_parallel_size=0,
            ),
            fast_attn_config=xfuser.FastAttnConfig(),
        )
    except (AttributeError, TypeError, AssertionError) as error:
        raise Unsupported(
            f"The installed xfuser does not take the settings of version 0.7.0 ({error}); install that version, or "
            "choose another way to run the pipeline."
        ) from error


def _attention_backend(device: torch.device, dtype: torch.dtype, ring: bool) -> str | None:
    """The name of xfuser's attention kernel; None lets it choose. A ring needs one that gives a log-sum-exp."""
    if device.type != "cpu" and dtype in (torch.float16, torch.bfloat16):
        return None
    if not ring:
        return "SDPA"
    return "SDPA_FLASH" if device.type == "cpu" else "SDPA_EFFICIENT"


def _wrapped(xfuser_class: type, pipe: DiffusionPipeline, config: Any, staged: bool) -> Any:
    """xfuser's version of a copy of `pipe`."""
    shallow = copy.copy(pipe)
    shallow.transformer = _same_weights(pipe.transformer)
    shallow.scheduler = copy.deepcopy(pipe.scheduler)
    schedulers = load("xfuser.model_executor.schedulers.register")
    if staged and part(schedulers, "xFuserSchedulerWrappersRegister").get_wrapper(pipe.scheduler) is None:
        raise Unsupported(
            f"PipeFusion of xDiT does not know the scheduler {type(pipe.scheduler).__name__}; choose another one, or "
            "set pipefusion_degree to 1."
        )
    return xfuser_class(shallow, config)


def _same_weights(model: nn.Module) -> nn.Module:
    """A copy of the modules, whose parameters and buffers are those of the model."""
    return copy.deepcopy(model, {id(x): x for x in (*model.parameters(), *model.buffers())})


def _forget_state() -> None:
    """Drops what xfuser keeps of a run: its configuration, and the caches of its attention layers."""
    load("xfuser.core.distributed.runtime_state")._RUNTIME = None
    load("xfuser.core.fast_attention.fast_attn_state")._FASTATTN = None
    load("xfuser.core.cache_manager.cache_manager").get_cache_manager().cache.clear()


def _attribute(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Gives an object an attribute of its own, in front of its class's, until `stack` is closed."""
    owner.__dict__[name] = value
    stack.callback(owner.__dict__.pop, name)


def _place() -> Any:
    """Which patch of the picture the model is called for; None for the whole picture."""
    state = load("xfuser.core.distributed.runtime_state").get_runtime_state()
    return state.pipeline_patch_idx if state.patch_mode else None


def _warn_of_patches(settings: XditConfig, ledger: Ledger) -> None:
    found = load("xfuser.core.distributed.runtime_state").get_runtime_state().num_pipeline_patch
    if settings.pipefusion_degree > 1 and found != settings.pieces:
        ledger.warn(
            f"xDiT cut the picture into {found} patches instead of {settings.pieces}, which its height forbids."
        )


def _nothing() -> None:
    """There is no wire to settle."""
