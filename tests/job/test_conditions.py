"""Which patches keep the conditions of a call on one worker."""

from __future__ import annotations

import comfy_extras.nodes_apg as apg
import comfy_extras.nodes_freelunch as freelunch
import comfy_extras.nodes_hypertile as hypertile
import comfy_extras.nodes_nag as nag
import comfy_extras.nodes_pag as pag
import comfy_extras.nodes_sag as sag
import controls
import pytest
from compact_parallel.runtime.comfy.describe.cfg_patches import reason_against_cfg
from sampling import model


def options(put) -> dict:
    """The model options after `put`(model)."""
    patched = model("flux").clone()
    return (put(patched) or patched).model_options


class Remembers:
    """A pack's patch and what acts after CFG, as methods of one object."""

    def __call__(self, n, context, value, extra_options):
        self.seen = n
        return n

    def after(self, args):
        return args["denoised"]


def with_a_shared_object(patcher):
    shared = Remembers()
    patcher.set_model_attn1_replace(shared, "middle", 0)
    patcher.set_model_sampler_post_cfg_function(shared.after)


def with_a_shared_dict(patcher):
    seen = {}

    def patch(n, context, value, extra_options):
        seen["n"] = n
        return n

    patcher.set_model_attn1_replace(patch, "middle", 0)
    patcher.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + seen["n"].mean())


def with_an_attribute(patcher):
    shared = Remembers()
    shared.seen = None

    def patch(n, context, value, extra_options):
        shared.seen = n
        return n

    patcher.set_model_attn1_replace(patch, "middle", 0)
    patcher.set_model_sampler_post_cfg_function(shared.after)


def with_what_evaluates_the_conditions(patcher):
    shared = Remembers()
    patcher.set_model_attn1_replace(shared, "middle", 0)
    patcher.set_model_sampler_calc_cond_batch_function(shared.after)


def with_the_model_in_both(patcher):
    patcher.set_model_attn1_replace(lambda n, context, value, extra_options: n * bool(patcher), "middle", 0)
    patcher.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * bool(patcher))


def with_objects_of_their_own(patcher):
    patcher.set_model_attn1_replace(Remembers(), "middle", 0)
    patcher.set_model_sampler_post_cfg_function(Remembers().after)


def with_a_shared_constant(patcher):
    scale = 2.0
    patcher.set_model_attn1_replace(lambda n, context, value, extra_options: n * scale, "middle", 0)
    patcher.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * scale)


@pytest.mark.parametrize(
    ("put", "words"),
    [
        (lambda patcher: nag.NAGuidance.execute(patcher, 5.0, 0.5, 1.5)[0], "such as NAG"),
        (lambda patcher: sag.SelfAttentionGuidance.execute(patcher, 0.5, 2.0)[0], "Self-Attention Guidance"),
        (with_a_shared_object, "remembers what it sees"),
        (lambda patcher: patcher.set_model_sampler_calc_cond_batch_function(print), ""),
        (with_what_evaluates_the_conditions, "remembers what it sees"),
        (lambda patcher: pag.PerturbedAttentionGuidance.execute(patcher, 3.0)[0], ""),
        (lambda patcher: apg.APG.execute(patcher, 1.0, 5.0, 0.5)[0], ""),
        (lambda _: freelunch.FreeU.execute(controls.unet(), 1.1, 1.2, 0.9, 0.2)[0], ""),
        (lambda patcher: hypertile.HyperTile.execute(patcher, 32, 2, 0, False)[0], ""),
        (with_a_shared_dict, "remembers what it sees"),
        (with_an_attribute, "remembers what it sees"),
        (with_the_model_in_both, ""),
        (with_objects_of_their_own, ""),
        (with_a_shared_constant, ""),
    ],
)
def test_only_what_puts_conditions_together_keeps_them_together(put, words):
    reason = reason_against_cfg(options(put))
    assert words in reason
    assert bool(reason) == bool(words)
    assert not reason or reason.endswith("set cfg_degree to 1.")
