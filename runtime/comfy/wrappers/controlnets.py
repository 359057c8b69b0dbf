"""ControlNets under sequence parallelism: their tokens or rows are split over the same ranks as those of the model.

ComfyUI runs ControlNets before each model call, in `ControlNet.get_control`, on every rank in the same order with the
same arguments. So the ranks may communicate there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import comfy.controlnet
from torch import Tensor, nn

from ...attention.sequence_attention import SequenceAttention
from ...attention.unsupported import Unsupported
from ...planner.capabilities import CONTROL
from ...sharding.batch_entries import batch_slots
from ...sharding.control_tokens import ControlTokens
from ...sharding.hooks import Hooked, Slots
from ...sharding.parallelize import split_control
from ...sharding.rows.control_rows import ControlRows
from ..describe.customisations import scan_call
from ..fits import against

# The names under which the blocks of ControlNets call ComfyUI's attention, without transformer_options.
ATTENTION = (
    ("comfy.ldm.modules.attention", "optimized_attention"),
    ("comfy.ldm.modules.diffusionmodules.mmdit", "optimized_attention"),
    ("comfy.ldm.flux.math", "optimized_attention"),
    ("comfy.ldm.qwen_image.model", "optimized_attention_masked"),
)
# Conditioning that adds reference tokens to those of the picture. Control is added to the first tokens.
REFERENCES = ("ref_latents", "ref_latent", "reference_latent")
WHOLE = "The ControlNet {} is run whole by every worker: {}."


@contextlib.contextmanager
def shared_controls(patcher: Any, model: Hooked, attention: SequenceAttention) -> Iterator[None]:
    """While active, ControlNets are split over the ranks of `attention`, as is the `model` of `patcher`.

    If this ComfyUI does not support it, every rank runs them whole.
    """
    if against(CONTROL):
        yield
        return
    kind = comfy.controlnet.ControlNet
    controls, original = _Controls(patcher, model, attention), kind.get_control

    def get_control(control: comfy.controlnet.ControlNet, *args: Any) -> Any:
        return controls.get_control(original, control, *args)

    kind.get_control = get_control
    try:
        yield
    finally:
        kind.get_control = original
        controls.detach()


class _Computed:
    """Stands for the previous ControlNet in a chain, whose control outputs are computed already."""

    def __init__(self, residuals: Any) -> None:
        self._residuals = residuals

    def get_control(self, *_: Any) -> Any:
        return self._residuals


class _Controls:
    """The ControlNets seen so far, each with its sharding; None for one that is run whole."""

    def __init__(self, patcher: Any, model: Hooked, attention: SequenceAttention) -> None:
        self._patcher, self._model, self._attention = patcher, model, attention
        self._known: dict[int, tuple[nn.Module, ControlTokens | ControlRows | None]] = {}
        self._numbers: dict[int, tuple[comfy.controlnet.ControlNet, int]] = {}

    def get_control(
        self,
        original: Callable,
        control: comfy.controlnet.ControlNet,
        x: Tensor,
        t: Tensor,
        cond: Any,
        batched: int,
        options: dict,
    ) -> Any:
        """The control of this ControlNet and of those chained before it, as `original` returns it."""
        given = (x, t, cond, batched, options)
        sharding, slots = self._sharding_of(control.control_model), _slots(options, x.shape[0])
        if sharding is None or slots is None:
            return original(control, *given)
        # A chain may use one module twice; each use has its own compression streams.
        _, number = self._numbers.setdefault(id(control), (control, len(self._numbers)))
        slots = tuple((f"control {number} {cond}", sample) for cond, sample in slots)
        previous = control.previous_controlnet
        try:
            if previous is not None:
                control.previous_controlnet = _Computed(previous.get_control(*given))
            sharding.begin_forward(slots)
            sharding.keeps_local = self._takes_own_only(cond, options) and not control.global_average_pooling
            with attention_through(sharding):
                return original(control, *given)
        finally:
            control.previous_controlnet = previous

    def _takes_own_only(self, cond: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether each rank needs the control for its local shard only, which is also its shard of the ControlNet.

        False if code of the workflow may read the control or move it, or if tokens are added to the picture's.
        """
        used = scan_call(self._patcher, options).may_use_control
        referred = any(cond.get(name) is not None for name in REFERENCES)
        if used or referred or not self._model.cuts_control:
            return False
        try:
            if not self._model.attached:  # `changed` is known only after attaching
                self._model.attach()
        except Unsupported:  # the model's own call will raise it
            return False
        return not self._model.changed

    def _sharding_of(self, module: nn.Module) -> ControlTokens | ControlRows | None:
        if id(module) not in self._known:
            self._known[id(module)] = module, self._shard(module)
        return self._known[id(module)][1]

    def _shard(self, module: nn.Module) -> ControlTokens | ControlRows | None:
        warn, name = self._attention.ledger.warn, type(module).__name__
        try:
            sharding = split_control(module, self._attention)
            if sharding is not None:
                sharding.attach()
                return sharding
            warn(WHOLE.format(name, "nobody wrote a plan for it"))
        except Unsupported as reason:
            warn(WHOLE.format(name, str(reason).partition(";")[0]))
        return None

    def detach(self) -> None:
        """Takes all hooks off again."""
        for _, sharding in self._known.values():
            if sharding is not None:
                sharding.detach()


def _slots(options: Mapping[str, Any], batch: int) -> Slots | None:
    """The names of the batch entries; None if a wrapper has split the batch, which the model's own call will report."""
    try:
        return batch_slots(options, batch)
    except Unsupported:
        return None


@contextlib.contextmanager
def attention_through(sharding: Hooked) -> Iterator[None]:
    """While active, the attention functions that ControlNets' modules import are patched to go through `sharding`."""
    functions = {place: getattr(sys.modules[place[0]], place[1]) for place in ATTENTION}
    try:
        for (module, name), function in functions.items():
            setattr(sys.modules[module], name, partial(sharding.attention_override(), function))
        yield
    finally:
        for (module, name), function in functions.items():
            setattr(sys.modules[module], name, function)
