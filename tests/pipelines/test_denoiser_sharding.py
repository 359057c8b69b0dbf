"""What a split denoiser sends compressed, what it refuses, and in which words."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.parallel.mesh import Degrees, Mesh
from compact_parallel.runtime.pipelines.denoiser_sharding import DenoiserTokens
from compact_parallel.runtime.pipelines.library import DIFFUSERS
from compact_parallel.runtime.pipelines.plans import plan_for
from compact_parallel.runtime.pipelines.sequence import split_denoiser
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.modified_modules import modified_modules
from compact_parallel.runtime.sharding.plan import Unsupported
from device import EXACT
from distributed import launch
from tiny_denoisers import (
    DENOISERS,
    IMPORTS,
    flux,
    flux2,
    flux2_inputs,
    flux_inputs,
    pixart,
    pixart_inputs,
    sd3,
    sd3_inputs,
)
from torch import nn
from torch.nn import functional

SLOTS = (("negative", 0), ("positive", 0))
CASES = ("flux", "sd3.5", "latte", "qwen, mask")
CALLS = 5
ORIGINAL = functional.scaled_dot_product_attention


def at_call(given, call):
    """The inputs of one of several calls, whose latents and their negatives change slowly."""
    return {**given, "hidden_states": given["hidden_states"] * (1 - 0.04 * call)}


def swapped(given):
    """The inputs with the two batch entries in the other order."""
    return {name: x.flip(0) if isinstance(x, torch.Tensor) and len(x) == 2 else x for name, x in given.items()}


@torch.inference_mode()
def coded(rank, world):
    """{case: (errors of the calls, bytes raw, bytes coded)}; {how: error of a last call with the entries swapped}."""
    degrees = Degrees(ring=2, split_asked=True)
    axes = Mesh(rank, world).axes(degrees)
    config = CompressionConfig(mode="codec", codec="2bit", warmup_calls=1)
    found, last = {}, {}

    @contextmanager
    def split(module, config):
        ledger = Ledger()
        wire = make_wire(config, ledger, CALLS)
        with split_denoiser(module, degrees, axes, wire, ledger) as sharding:
            yield sharding, ledger

    def error(sharding, given, slots=SLOTS):
        sharding.begin_forward(slots)
        output = sharding.module(**given).sample
        sharding.detach()
        return difference(output, sharding.module(**given).sample)

    for name in CASES:
        module, given = DENOISERS[name][0](), DENOISERS[name][1]()
        sent = []
        for each in (CompressionConfig(mode="off"), config):
            with split(module, each) as (sharding, ledger):
                errors = [error(sharding, at_call(given, call)) for call in range(CALLS)]
            sent.append(ledger.totals()[0])
        found[name] = (errors, *sent)
    module, given = DENOISERS["flux"][0](), DENOISERS["flux"][1]()
    for how, slots in {"their slots": SLOTS[::-1], "the slots of the other": SLOTS}.items():
        with split(module, config) as (sharding, _):
            for call in range(CALLS - 1):
                error(sharding, at_call(given, call))
            last[how] = error(sharding, swapped(at_call(given, CALLS)), slots)
    return found, last


def test_compression(tmp_path):
    for found, last in launch(coded, 2, tmp_path, imports=IMPORTS):
        assert set(found) == set(CASES)
        for errors, raw, compressed in found.values():
            assert all(EXACT < error < 0.02 for error in errors)
            assert errors[-1] < errors[0]  # what was lost follows
            assert compressed < raw / 4
        assert last["their slots"] < 0.01 < 0.1 < last["the slots of the other"]


def interrupt(*_):
    raise KeyboardInterrupt


@torch.inference_mode()
def in_turn(rank, world):
    """The errors of two denoisers that are split at the same time and run in turns (Wan 2.2), also after failures."""
    degrees = Degrees(ulysses=2)
    axes = Mesh(rank, world).axes(degrees)
    first, second = DENOISERS["wan"], DENOISERS["flux"]
    modules, inputs = (first[0](), second[0]()), (first[1](), second[1]())
    expected = [module(**given).sample for module, given in zip(modules, inputs)]
    errors = []
    with (
        split_denoiser(modules[0], degrees, axes, RawWire(), Ledger()) as one,
        split_denoiser(modules[1], degrees, axes, RawWire(), Ledger()) as other,
    ):
        for turn in (1, 0, 1, 0):
            (one, other)[turn].begin_forward(SLOTS)
            errors.append(difference(modules[turn](**inputs[turn]).sample, expected[turn]))
            assert functional.scaled_dot_product_attention is ORIGINAL
        interruption = modules[1].proj_out.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            modules[1](**inputs[1])
        interruption.remove()
        errors.append(difference(modules[1](**inputs[1]).sample, expected[1]))
        with pytest.raises(RuntimeError):
            modules[1](**{**inputs[1], "pooled_projections": torch.zeros(2, 1)})
        assert functional.scaled_dot_product_attention is ORIGINAL
    return errors


def test_two_denoisers_in_turn(tmp_path):
    for errors in launch(in_turn, 2, tmp_path, imports=IMPORTS):
        assert max(errors) < EXACT


AXES = {"ulysses": Axis("ulysses", (0,), 0), "ring": Axis("ring", (0, 1), 0)}
"""Those of rank 0 of two: enough for what is refused before anything is sent."""


class Recording(SequenceAttention):
    """Keeps the first queries that it is given, and the layout of their tokens."""

    def __call__(self, func, q, k, v, heads, *, layout, **kwargs):
        self.seen = (*getattr(self, "seen", ()), q)[:1]
        self.layout = layout
        raise KeyError("enough")


def test_text_comes_first_in_messages():
    """The wire knows text by its place: Stable Diffusion 3 joins it behind the image."""
    module = DENOISERS["sd3"][0]()
    attention = Recording(AXES["ulysses"], AXES["ring"], "all_gather", RawWire(), Ledger())
    text = []
    with torch.inference_mode(), DenoiserTokens(module, plan_for(module), attention) as sharding:
        module.transformer_blocks[0].attn.add_q_proj.register_forward_hook(lambda *given: text.append(given[-1]))
        sharding.begin_forward(SLOTS)
        with pytest.raises(KeyError, match="enough"):
            module(**DENOISERS["sd3"][1]())
    (queries,) = attention.seen
    assert attention.layout.text(0) == text[0].shape[1] == 4
    assert torch.equal(queries[:, :, :4].transpose(1, 2).flatten(2), text[0])


@contextmanager
def split_of(module, split_asked=True):
    ledger = Ledger()
    degrees = Degrees(ring=2, split_asked=split_asked)
    with split_denoiser(module, degrees, AXES, RawWire(), ledger) as sharding:
        yield sharding


def with_cache(module):
    from diffusers.hooks import FirstBlockCacheConfig

    module.enable_cache(FirstBlockCacheConfig(threshold=0.1))


def with_processor(module):
    class Processor(type(module.single_transformer_blocks[1].attn.processor)):
        pass

    module.single_transformer_blocks[1].attn.processor = Processor()


def with_forward(module):
    block = module.transformer_blocks[1]
    block.forward = partial(type(block).forward, block)


CHANGES = {
    "a cache of diffusers": (with_cache, "(single_transformer_blocks.0)"),
    "a processor from elsewhere": (with_processor, "(single_transformer_blocks.1.attn)"),
    "another forward": (with_forward, "(transformer_blocks.1)"),
    "a hook": (lambda module: module.register_forward_hook(lambda *_: None), "(FluxTransformer2DModel)"),
    "a compiled block": (lambda module: module.transformer_blocks[0].compile(), "(transformer_blocks.0)"),
    "a layer from elsewhere": (
        lambda module: setattr(module.transformer_blocks[0], "ff", type("Other", (nn.Identity,), {})()),
        "(transformer_blocks.0.ff)",
    ),
}


def refusal(module, given, slots=SLOTS, plan=None):
    """The sentence with which a forward is refused. Nothing stays on the model or on torch."""
    with torch.inference_mode(), split_of(module) as sharding:
        sharding.plan = plan or sharding.plan
        with pytest.raises(Unsupported) as error:
            sharding.begin_forward(slots)
            module(**given)
        assert functional.scaled_dot_product_attention is ORIGINAL
    assert functional.scaled_dot_product_attention is ORIGINAL
    sentence = str(error.value)
    assert sentence.endswith(f"; {DIFFUSERS.way_out}")
    assert not any(word in sentence for word in ("ComfyUI", "on_unsupported", "Parallel Model"))
    return sentence


@pytest.mark.parametrize("what", CHANGES)
def test_changed_code_is_refused(what):
    module = flux()
    change, where = CHANGES[what]
    change(module)
    words = f"Flux cannot be split over ranks with code of the workflow's own in place of the model's {where}; "
    assert refusal(module, flux_inputs()).startswith(words)


INPUTS = {
    "arguments for attention": (
        flux,
        lambda: {**flux_inputs(), "joint_attention_kwargs": {"scale": 1.0, "ip_hidden_states": []}},
        "Flux cannot be split over ranks with arguments for its attention (ip_hidden_states)",
    ),
    "no text": (
        partial(pixart, caption_channels=None),
        lambda: {**pixart_inputs(), "encoder_hidden_states": None, "encoder_attention_mask": None},
        "with no text (encoder_hidden_states)",
    ),
    "a mask of another length": (
        pixart,
        lambda: {**pixart_inputs(), "attention_mask": torch.ones(2, 14)},
        "The attention mask has shape (2, 1, 14), which does not fit a sequence of 15 tokens",
    ),
    "a cache of keys": (
        flux2,
        lambda: {**flux2_inputs(), "kv_cache_mode": "extract"},
        "with a cache of the keys of reference images (kv_cache_mode)",
    ),
    "a skipped block": (
        sd3,
        lambda: {**sd3_inputs(), "skip_layers": [0]},
        "a change in diffusers ",
    ),
}


@pytest.mark.parametrize("what", INPUTS)
def test_inputs_are_refused(what):
    build, inputs, words = INPUTS[what]
    assert words in refusal(build(), inputs())


class Unwatched(DenoiserTokens):
    """Does not look for changed code."""

    def _look(self):
        return ()


def with_mean(module):
    """A block is given its tokens less their mean."""
    block = module.transformer_blocks[1]
    forward = block.forward
    block.forward = lambda hidden_states, **given: forward(hidden_states - hidden_states.mean(1, True), **given)


@torch.inference_mode()
def unguarded(rank, world):
    """The errors where what is refused is not refused."""
    axes = Mesh(rank, world).axes(Degrees(ring=2))
    attention = SequenceAttention(axes["ulysses"], axes["ring"], "all_gather", RawWire(), Ledger())
    errors = []
    for build, inputs, change in ((*INPUTS["no text"][:2], None), (flux, flux_inputs, with_mean)):
        module, given = build(), inputs()
        if change:
            change(module)
        expected = module(**given).sample
        with Unwatched(module, replace(plan_for(module), guards=()), attention) as sharding:
            sharding.begin_forward(SLOTS)
            errors.append(difference(module(**given).sample, expected))
    return errors


def test_what_is_refused_would_be_wrong(tmp_path):
    for errors in launch(unguarded, 2, tmp_path, imports=IMPORTS):
        assert min(errors) > 100 * EXACT


def test_other_attention_is_refused():
    from diffusers.models.attention_dispatch import attention_backend

    module = pixart()
    module.set_default_attn_processor()  # of diffusers, but it multiplies matrices itself
    assert "does not go through torch's scaled_dot_product_attention" in refusal(module, pixart_inputs())
    with attention_backend("flex"):
        assert "(the attention backend native of diffusers " in refusal(flux(), flux_inputs())


def test_another_batch_or_plan_is_refused():
    assert "(batch, tokens) (2, 12) where (1, 12) were expected" in refusal(flux(), flux_inputs(), SLOTS[:1])
    plan = plan_for(flux())
    assert "(batch, tokens) (2, 12) where (2, 4)" in refusal(flux(), flux_inputs(), plan=replace(plan, joint=("text",)))
    assert "no blocks.first in the model" in refusal(flux(), flux_inputs(), plan=plan_for(DENOISERS["wan"][0]()))


def test_a_class_without_plan_is_refused():
    words = "no sequence-parallel plan for Linear of diffusers; set ulysses_degree"
    with pytest.raises(Unsupported, match=words), split_of(nn.Linear(1, 1)):
        pass


def test_runs_whole_where_nobody_asked_for_a_split():
    module, given = flux(), {**flux_inputs(), "joint_attention_kwargs": {"unknown": 1}}
    with torch.inference_mode(), split_of(module, split_asked=False) as sharding:
        expected = module(**given).sample
        sharding.begin_forward(SLOTS)
        assert torch.equal(module(**given).sample, expected)
        (warning,) = sharding.attention.ledger.to_json()["warnings"]
    assert "arguments for its attention (unknown)" in warning


def test_diffusers_code_stays_strange_in_a_model_of_comfyui():
    module = flux()
    assert "transformer_blocks.0" in set(modified_modules(module))
    assert not list(modified_modules(module, DIFFUSERS.packages))
