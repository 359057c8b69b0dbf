"""ControlNets, T2I adapters and GLIGEN: their models have no recipe and travel themselves, and steer as in stock."""

from __future__ import annotations

import functools
import sys

import cloudpickle
import comfy_models
import controls
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_controlnet import SetUnionControlNetType
from compact_parallel.runtime.config import CompressionConfig, StepReuseConfig
from sampling import SEED, TOLERANCE, model, parallel, pool, relative_error, report

import nodes as stock

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SEQUENCE = {"all_gather 2": (2, {"ring_degree": 2}), "ulysses 2": (2, {"ulysses_degree": 2})}
CFG = {"cfg 2": (2, {"cfg_degree": 2})}
FLUX = {**SEQUENCE, **CFG, "all_gather 3": (3, {"ring_degree": 3})}


@functools.cache
def made(kind: str, seed: int = 3):
    """A CONTROL_NET, loaded once."""
    return getattr(controls, kind)(seed)


@functools.cache
def unet():
    return controls.unet()


@pytest.fixture(scope="module", autouse=True)
def let_go():
    """ComfyUI's patchers are not to live until the interpreter ends."""
    yield
    made.cache_clear()
    unet.cache_clear()
    qwen.cache_clear()


@torch.inference_mode()
def ksampler(patcher, conds, *, steps=4, latent=None):
    """KSampler's samples with these (positive, negative)."""
    latent = comfy_models.latent("flux") if latent is None else latent
    out = stock.KSampler().sample(patcher, SEED, steps, 3.0, "euler", "simple", *conds, {"samples": latent})
    return out[0]["samples"]


@functools.cache
def plain() -> torch.Tensor:
    """Flux without any control."""
    return ksampler(model("flux"), controls.steered())


def one(strength=1.0, start=0.0, end=1.0):
    return controls.steered((made("flux_xlabs"), strength, start, end))


def chained():
    """A ControlNet for the first half, upon one at half strength for the second."""
    return controls.steered((made("flux_xlabs", 3), 0.5, 0.4, 1.0), (made("flux_xlabs", 11), 1.0, 0.0, 0.6))


def union(kind=controls.UNION_TYPE):
    """A union ControlNet, told its kind, that sees the hint through a VAE."""
    told = SetUnionControlNetType.execute(made("flux_union"), kind)[0]
    return controls.steered((told, 1.0, 0.0, 1.0), vae=controls.pixel_vae())


def on_the_positive_only():
    return one()[0], comfy_models.conditioning(2)


STEERED = {
    "one": one,
    "at strength 0.4": functools.partial(one, 0.4),
    "in the middle steps": functools.partial(one, 1.0, 0.3, 0.7),
    "chained": chained,
    "union": union,
    "on the positive only": on_the_positive_only,
}


@pytest.mark.parametrize("arrangement", FLUX)
@pytest.mark.parametrize("way", STEERED)
def test_a_controlnet_steers_flux_as_in_stock(way, arrangement):
    world, strategy = FLUX[arrangement]
    conds = STEERED[way]()
    expected = ksampler(model("flux"), conds)
    samples = ksampler(parallel(model("flux"), world, **strategy), conds)
    assert relative_error(samples, expected) < TOLERANCE
    assert relative_error(plain(), expected) > 1000 * TOLERANCE  # what a worker without it would make


def test_strength_range_and_kind_each_make_another_picture():
    parallel_flux = parallel(model("flux"), 2, ring_degree=2)
    ways = (one(), one(0.4), one(1.0, 0.3, 0.7), union(), union("depth"))
    pictures = [ksampler(parallel_flux, conds) for conds in ways]
    for number, picture in enumerate(pictures):
        assert all(relative_error(other, picture) > 100 * TOLERANCE for other in pictures[:number])
    assert relative_error(ksampler(parallel_flux, one(0.0)), plain()) < TOLERANCE


@pytest.mark.parametrize("way", ("one", "in the middle steps", "chained"))
def test_step_parallelism_evaluates_each_call_under_its_own_control(way):
    conds = STEERED[way]()
    expected = ksampler(model("flux"), conds, steps=12)
    reuse = StepReuseConfig(mode="look_ahead", look_ahead=2, tolerance=0.2)
    samples = ksampler(parallel(model("flux"), 2, step_reuse=reuse, step_degree=2), conds, steps=12)
    assert max(report()["accepted"]) == 2  # calls were made ahead
    assert relative_error(samples, expected) < 0.2
    without = ksampler(model("flux"), controls.steered(), steps=12)
    assert relative_error(without, expected) > 0.4


def stored_bytes() -> int:
    return sum(path.stat().st_size for path in pool(2).store.directory.glob("*.safetensors"))


def test_the_weights_are_stored_once_and_loaded_once(monkeypatch):
    strategy = {"ring_degree": 2}
    ksampler(parallel(model("flux"), 2, **strategy), one())
    files = {path: path.stat().st_mtime_ns for path in pool(2).store.directory.glob("*.safetensors")}
    hashed = []
    store = sys.modules["compact_parallel.runtime.pool.tensor_hash"]
    monkeypatch.setattr(store, "content_hash", lambda tensor: hashed.append(tensor.nbytes) or "0" * 40)
    ksampler(parallel(model("flux"), 2, **strategy), one(0.5))
    again = {path: path.stat().st_mtime_ns for path in pool(2).store.directory.glob("*.safetensors")}
    weights = {path: time for path, time in files.items() if path in again}
    assert all(again[path] == time for path, time in weights.items())
    assert len(weights) >= len(files) - 1  # all but the hint and its like
    assert max(hashed, default=0) < 1 << 20


def logging_identity(path):
    """Flux in parallel, with a wrapper that notes in worker 0 which objects the model and the ControlNet are."""
    patcher = parallel(model("flux"), 2, ring_degree=2)

    def note(executor, *args, **kwargs):
        guider = executor.class_obj
        control = guider.conds["positive"][0]["control"].control_model
        if torch.distributed.get_rank() == 0:
            with open(path, "a") as file:
                print(id(guider.model_patcher.model), id(control), file=file)
        return executor(*args, **kwargs)

    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, note)
    return patcher


def test_workers_load_a_controlnet_once_and_keep_it_over_a_job_with_another(tmp_path):
    seen = tmp_path / "seen"
    first, second = one(), controls.steered((made("flux_xlabs", 11), 1.0, 0.0, 1.0))
    for conds in (first, one(0.5), second, first, second):
        ksampler(logging_identity(seen), conds)
    models, nets = zip(*(line.split() for line in seen.read_text().splitlines()))
    assert len(set(models)) == 1
    assert nets[0] == nets[1] == nets[3] and nets[2] == nets[4] != nets[0]


def test_the_parents_control_is_as_it_was():
    conds = chained()
    control = conds[0][0][1]["control"]
    before = {name: value for name, value in vars(control).items() if name != "previous_controlnet"}
    weights = {name: value.clone() for name, value in control.control_model.state_dict().items()}
    ksampler(parallel(model("flux"), 2, ring_degree=2), conds)
    after = vars(control)
    assert all(after[name] is value for name, value in before.items())
    assert all(torch.equal(value, weights[name]) for name, value in control.control_model.state_dict().items())
    assert control.cond_hint is None and control.previous_controlnet.cond_hint is None


def test_changed_weights_of_a_controlnet_reach_the_workers():
    control = controls.flux_xlabs(21)
    conds = controls.steered((control, 1.0, 0.0, 1.0))
    patched = parallel(model("flux"), 2, ring_degree=2)
    first = ksampler(patched, conds)
    with torch.inference_mode():
        control.control_model.controlnet_blocks[0].weight.mul_(0.5)
    expected = ksampler(model("flux"), conds)
    assert relative_error(ksampler(patched, conds), expected) < TOLERANCE
    assert relative_error(first, expected) > 100 * TOLERANCE


@functools.cache
def qwen():
    return controls.qwen_model()


QWEN_LATENT = torch.zeros(1, 16, 1, 30, 14)
FAMILIES = {
    "sd3": (lambda: model("sd3"), "sd3", controls.pixel_vae, None),
    "qwen": (qwen, "qwen", controls.NarrowVae, QWEN_LATENT),
    "qwen, fun": (qwen, "qwen_fun", controls.NarrowVae, QWEN_LATENT),
}


@pytest.mark.parametrize("arrangement", ({**SEQUENCE, **CFG}))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_controlnet_steers_other_families_as_in_stock(family, arrangement):
    steered_model, kind, vae, latent = FAMILIES[family]
    world, strategy = {**SEQUENCE, **CFG}[arrangement]
    conds = controls.steered((made(kind), 1.0, 0.0, 0.8), vae=vae())
    expected = ksampler(steered_model(), conds, latent=latent)
    assert (
        relative_error(ksampler(parallel(steered_model(), world, **strategy), conds, latent=latent), expected)
        < TOLERANCE
    )
    assert relative_error(ksampler(steered_model(), controls.steered(), latent=latent), expected) > 100 * TOLERANCE


UNET_CONTROLS = ("unet_controlnet", "unet_control_lora", "t2i_adapter")
UNET_LATENT = torch.zeros(1, 4, 30, 14)


UNET_ARRANGEMENTS = {**CFG, "rows 2": (2, {"ring_degree": 2}), "rows 3": (3, {"ring_degree": 3})}


@pytest.mark.parametrize("arrangement", UNET_ARRANGEMENTS)
@pytest.mark.parametrize("kind", UNET_CONTROLS)
def test_controls_of_a_unet_without_a_recipe_steer_as_in_stock(kind, arrangement):
    world, strategy = UNET_ARRANGEMENTS[arrangement]
    conds = controls.steered((made(kind), 1.0, 0.0, 1.0), (made("unet_controlnet", 12), 0.5, 0.0, 0.5))
    expected = ksampler(unet(), conds, latent=UNET_LATENT)
    samples = ksampler(parallel(unet(), world, **strategy), conds, latent=UNET_LATENT)
    assert relative_error(samples, expected) < TOLERANCE
    only_one = controls.steered((made("unet_controlnet", 12), 0.5, 0.0, 0.5))
    assert relative_error(ksampler(unet(), only_one, latent=UNET_LATENT), expected) > 100 * TOLERANCE


# {kind: (the model, a latent, the VAE, whether the workers share the ControlNet)}.
SHARED = {
    "flux_union": (lambda: model("flux"), None, controls.pixel_vae, True),
    "sd3": (lambda: model("sd3"), None, controls.pixel_vae, True),
    "qwen": (qwen, QWEN_LATENT, controls.NarrowVae, True),
    "qwen_fun": (qwen, QWEN_LATENT, controls.NarrowVae, False),
    "unet_controlnet": (unet, UNET_LATENT, lambda: None, True),
    "unet_control_lora": (unet, UNET_LATENT, lambda: None, False),
}


@pytest.mark.parametrize("kind", SHARED)
def test_the_workers_share_a_controlnet_or_the_report_says_that_each_runs_it_whole(kind):
    steered_model, latent, vae, shared = SHARED[kind]
    sent = {}
    for name, given in (("with", ((made(kind), 1.0, 0.0, 1.0),)), ("without", ())):
        conds = controls.steered(*given, vae=vae())
        ksampler(parallel(steered_model(), 2, ring_degree=2), conds, latent=latent)
        sent[name] = report()["bytes_sent"]
        whole = any("is run whole by every worker" in warning for warning in report()["warnings"])
        assert whole == (name == "with" and not shared)
    assert (sent["with"] > 1.1 * sent["without"]) == shared


def with_reference():
    """Flux, and a ControlNet beside a reference latent, which is more tokens of the picture."""
    latent = torch.randn((1, 16, 8, 12), generator=torch.Generator().manual_seed(3))
    return model("flux"), [
        [[text, about | {"reference_latents": [latent]}] for text, about in conditions] for conditions in one()
    ]


def mixing(args, extra):
    """A block that sees something of the whole picture, and of what was added to it."""
    return extra["original_block"](args | {"img": args["img"] + args["img"].mean(1, keepdim=True)})


def with_a_block_replaced():
    """Flux with a patch in place of a block."""
    patched = model("flux").clone()
    patched.set_model_patch_replace(mixing, "dit", "double_block", 1)
    return patched, one()


def keeping_own(executor, *args, **kwargs):
    """Runs in a worker: nobody looks whether the model takes each rank's own residuals only."""
    from unittest import mock

    with mock.patch("compact_parallel.runtime.comfy.wrappers.controlnets._Controls._takes_own_only", lambda *_: True):
        return executor(*args, **kwargs)


@pytest.mark.parametrize("way", (with_reference, with_a_block_replaced))
def test_residuals_are_gathered_where_more_than_the_own_ones_are_used(way):
    steered, conds = way()
    expected = ksampler(steered, conds)
    patcher = parallel(steered, 2, ring_degree=2)
    assert relative_error(ksampler(patcher, conds), expected) < TOLERANCE
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, keeping_own)
    assert relative_error(ksampler(patcher, conds), expected) > 100 * TOLERANCE


def test_residuals_that_only_their_own_rank_adds_are_not_sent():
    sent = []
    for patches in ([], [lambda args: args]):
        patched = model("flux").clone()
        for patch in patches:
            patched.set_model_post_input_patch(patch)
        ksampler(parallel(patched, 2, ring_degree=2), union())
        sent.append(report()["bytes_sent"])
    assert sent[0] < 0.9 * sent[1]


def test_a_controlnet_that_steers_twice_is_compressed_against_itself():
    hints = {"one": controls.hint(9), "other": controls.hint(10)}
    positive, negative = controls.steered((made("flux_xlabs"), 0.5, 0.0, 1.0), image=hints["one"])
    again = {"positive": positive, "negative": negative, "image": hints["other"]}
    conds = controls.steered((made("flux_xlabs"), 0.5, 0.0, 1.0), **again)
    expected = ksampler(model("flux"), conds, steps=6)
    compression = CompressionConfig(mode="codec", codec="int8")
    samples = ksampler(parallel(model("flux"), 2, compression, ring_degree=2), conds, steps=6)
    assert TOLERANCE < relative_error(samples, expected) < 0.02
    assert report()["max_relative_error"] < 0.05


def boxed():
    """A positive condition with a GLIGEN box, as GLIGENTextBoxApply makes it."""
    ((text, extras),) = comfy_models.conditioning(1)
    box = (torch.randn((1, 48), generator=torch.Generator().manual_seed(6)), 10, 8, 2, 2)
    return [[text, {**extras, "gligen": ("position", made("gligen"), [box])}]], comfy_models.conditioning(2)


def test_gligen_places_what_it_is_told_to():
    expected = ksampler(unet(), boxed(), latent=UNET_LATENT)
    samples = ksampler(parallel(unet(), 2, cfg_degree=2), boxed(), latent=UNET_LATENT)
    assert relative_error(samples, expected) < TOLERANCE
    assert relative_error(ksampler(unet(), controls.steered(), latent=UNET_LATENT), expected) > 100 * TOLERANCE
