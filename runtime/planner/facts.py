"""The facts of a job by which `run_plan` decides how workers share it: plain values, without a model.

comfy/describe finds them for ComfyUI's jobs.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..parallel.step.samplers import SERIAL, Kind
from .capabilities import TOKENS


@dataclass(frozen=True)
class Traits:
    """How a model family treats the batch of a call, which rules out ways to divide it.

    Args:
        title: the family, as people call it.
        pairs_conditions: it combines the two conditions of a call inside the model, by their places in the batch.
        mixes_batch: the entries of a batch see each other.
        batch_is_frames: the batch is the frames of one video.
    """

    title: str = ""
    pairs_conditions: bool = False
    mixes_batch: bool = False
    batch_is_frames: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """How a diffusion model can be split.

    Args:
        name: its class.
        kind: what its plan splits, TOKENS or ROWS (see capabilities.py); TOKENS for a model without a plan.
        no_plan: why it cannot be split, without the way out; empty if it can.
        refusal: the same with the way out.
        unfit: its family has a plan, but was written for other modules than it has.
        heads: the greatest common divisor of the head counts of its split attention, if the model tells.
        rows: the most workers that this picture has rows for; None if tokens are split.
        exchanged_bytes: bytes of the keys and values of all layers in a call with one batch entry; None if unknown.
        splits_around_changes: replaced blocks or layers can run on all tokens while the others are split.
    """

    name: str
    kind: str = TOKENS
    no_plan: str = ""
    refusal: str = ""
    unfit: bool = False
    heads: int | None = None
    rows: int | None = None
    exchanged_bytes: int | None = None
    splits_around_changes: bool = True
    traits: Traits = Traits()


@dataclass(frozen=True)
class Asked:
    """Conditions per model call: `usual` is the expected median, `most` an upper bound (None if none is certain)."""

    usual: int
    most: int | None = None


@dataclass(frozen=True)
class SamplerFacts:
    """A sampler: its name, how it looks ahead, and how many model calls it will make; None if they were not counted."""

    name: str
    kind: Kind
    calls: int | None = None


@dataclass(frozen=True)
class JobFacts:
    """One sampling job.

    Args:
        batch: entries of the latent.
        asked: the conditions of its calls.
        one_at_cfg_1: its calls have one condition only because CFG is 1.
        replaced: names code of the model that the workflow has replaced; empty if there is none.
        sees_batch: code of the workflow inside the model may depend on the whole batch.
        controlled: ControlNets or the like steer it.
        sparse: its attention is sparse, which needs as many queries as keys.
        against_cfg: why patches need all conditions of a call on one worker; empty if they do not.
        against_look_ahead: why calls of this workflow cannot be made ahead, with the way out.
        against_batched_calls: why calls of different steps cannot be evaluated as one batch.
        easycache: whether EasyCache or a relative is on the model.
        split_elsewhere: another node has put copies of the model on other devices already.
        itemsize: bytes of a value of the tensors between the model's layers.
        asking: a key of what decides how many conditions a call has.
        workflow: a key of what decides whether each kind of parallelism has something to do.
    """

    model: ModelFacts
    batch: int
    asked: Asked
    sampler: SamplerFacts
    one_at_cfg_1: bool = False
    replaced: str = ""
    sees_batch: bool = False
    controlled: bool = False
    sparse: bool = False
    against_cfg: str = ""
    against_look_ahead: str = ""
    against_batched_calls: str = ""
    easycache: bool = False
    split_elsewhere: bool = False
    itemsize: int = 2
    asking: Hashable = None
    workflow: Hashable = None

    @property
    def resumable(self) -> bool:
        """Whether a sampler that is given the predictions of its first calls again goes on as if it had made them."""
        return self.sampler.kind.way != SERIAL and not self.against_look_ahead
