"""Sequence parallelism in ComfyUI: the APPLY_MODEL wrapper of a model whose tokens or rows are split over the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...attention.axis import Axis
from ...attention.unsupported import Unsupported
from ...compression.wire import Wire
from ...parallel.mesh import Degrees
from ...parallel.sequence import sequence_parallel
from ...report.ledger import Ledger
from ...sharding.batch_entries import batch_slots
from ...sharding.hooks import SOME_WHOLE, Hooked
from ...sharding.overrides import is_sparse
from ..describe.customisations import scan_call
from .controlnets import shared_controls

OVERRIDE = "optimized_attention_override"
DENSE = (
    "Model Sparse Attention (BlockSparseAttention) attends to all keys where there are more keys than queries, as with "
    "ring_degree: nothing would be sparse. Use ulysses_degree, or bypass that node."
)
NOT_COMPILED = (
    "torch.compile does not apply to a model whose rows are split (ring_degree). With CFG above 1, two workers with "
    "cfg_degree 2 keep it."
)


@contextlib.contextmanager
def shared_tokens(
    patcher: Any, degrees: Degrees, axes: dict[str, Axis], wire: Wire, ledger: Ledger
) -> Iterator[Callable]:
    """Shard the model of `patcher`, and its ControlNets, for the block's duration. Yields the APPLY_MODEL wrapper.

    At its end no message between the ranks is in flight. Raises Unsupported for a model family without a plan.
    """
    module = patcher.model.diffusion_model
    replaced = scan_call(patcher, {}).replaced_modules(module)
    with contextlib.ExitStack() as stack:
        sharded = sequence_parallel(module, degrees, axes, wire, ledger, replaced=replaced)
        sharding = stack.enter_context(sharded)
        stack.enter_context(shared_controls(patcher, sharding, sharding.attention))
        yield _ApplyModel(sharding, patcher)


class _ApplyModel:
    """The APPLY_MODEL wrapper: names the batch entries for the compression streams and installs our attention."""

    def __init__(self, sharding: Hooked, patcher: Any) -> None:
        self._sharding = sharding
        self._patcher = patcher

    def __call__(
        self,
        executor: Callable,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None,
        c_crossattn: torch.Tensor | None,
        control: Any,
        transformer_options: dict,
        **conditioning: Any,
    ) -> torch.Tensor:
        given = (x, t, c_concat, c_crossattn, control)
        try:
            self._begin(x, transformer_options)
        except Unsupported as reason:
            if self._sharding.asked:
                raise
            self._sharding.detach()  # nothing has run yet: every rank runs this call whole
            self._sharding.attention.ledger.warn(SOME_WHOLE.format(str(reason).partition(";")[0]))
            return executor(*given, transformer_options, **conditioning)
        previous = transformer_options.get(OVERRIDE)
        if is_sparse(previous) and self._sharding.attention.ring.size > 1:
            raise Unsupported(DENSE)
        options = {**transformer_options, OVERRIDE: self._sharding.attention_override(previous)}
        with contextlib.ExitStack() as stack:
            if not self._sharding.runs_compiled and hasattr(executor.class_obj.diffusion_model, "_orig_mod"):
                self._sharding.attention.ledger.warn(NOT_COMPILED)
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            return executor(*given, options, **conditioning)

    def _begin(self, x: torch.Tensor, transformer_options: dict) -> None:
        """Prepares the sharding for a call. Raises Unsupported, on all ranks, for a model that cannot be split."""
        custom = scan_call(self._patcher, transformer_options)
        if custom.may_change_the_model:
            self._sharding.detach()  # so that the model is inspected again
        self._sharding.begin_forward(batch_slots(transformer_options, x.shape[0]))
        if custom.injections and not set(self._sharding.changed).difference(self._sharding.replaced):
            raise self._sharding.plan.refuse(
                f"an injection ({custom.injections[0]}) of which no module shows what it does"
            )
