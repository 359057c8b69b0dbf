"""What the installed ComfyUI no longer has switches off what depends on it, and nothing else.

Each name is taken from ComfyUI's own modules in this process, where nothing is sampled; see test_lacking.py for runs.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import comfy_models
import comfy_unet
import pytest
import torch
from compact_parallel.nodes.parallel_model import CompactParallelModel, _not_here
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.comfy import fits
from compact_parallel.runtime.comfy.fits import against, misfits
from compact_parallel.runtime.comfy.run.choice import choose
from compact_parallel.runtime.comfy.seam import EVERYTHING
from compact_parallel.runtime.config import ParallelConfig, PoolConfig, StepReuseConfig, StrategyConfig
from compact_parallel.runtime.host import installed
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.planner.capabilities import CFG, CONTROL, DATA, EASYCACHE, ROWS, STEP, TOKENS
from compact_parallel.runtime.planner.sharing import NothingToShare
from job_facts import degrees_alone, unmet
from sampling import custom, model

# For each capability a name it needs, with what else needs that.
NEEDS = {
    CFG: ("comfy.samplers", "get_area_and_mult", {CFG}),
    EASYCACHE: ("comfy.samplers", "can_concat_cond", {EASYCACHE}),
    STEP: ("comfy.model_sampling", "CONST", {STEP}),
    DATA: ("comfy.model_base", "BaseModel.apply_model", {DATA, TOKENS, ROWS}),
    TOKENS: ("comfy.ldm.modules.attention", "optimized_attention", {TOKENS, ROWS, CONTROL}),
    ROWS: ("comfy.ldm.modules.attention", "SpatialTransformer", {ROWS}),
    CONTROL: ("comfy.controlnet", "ControlNet.get_control", {CONTROL}),
    EVERYTHING: ("comfy.sampler_helpers", "get_additional_models", {EVERYTHING}),
}
DEGREES = {
    "cfg_degree": {CFG},
    "data_degree": {DATA},
    "step_degree": {STEP},
    "ulysses_degree": {TOKENS},
    "ring_degree": {TOKENS},
}
REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2)


@pytest.fixture(params=NEEDS, ids=lambda capability: capability.partition(" (")[0])
def lost(request, monkeypatch, unet):
    """The capabilities that are lost in a ComfyUI without a name; the name itself."""
    module, name, needed_for = NEEDS[request.param]
    owner, _, last = name.rpartition(".")
    home = importlib.import_module(module)
    model("flux")  # loaded, as the UNet is, while ComfyUI has all it needs
    monkeypatch.delattr(getattr(home, owner) if owner else home, last)
    misfits.cache_clear()
    yield SimpleNamespace(of=needed_for, name=f"{module}:{name}")
    monkeypatch.undo()
    misfits.cache_clear()
    fits._set_by_methods.cache_clear()


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    return comfy_unet.load(comfy_unet.save(tmp_path_factory.mktemp("unet") / "unet.safetensors"))


def guider(patcher, cfg: float):
    positive, negative = comfy_models.conditioning(1), comfy_models.conditioning(2)
    made = custom.CFGGuider.execute(patcher, positive, negative, cfg)[0]
    made.conds = made.original_conds
    return made


def arguments(noise):
    return SimpleNamespace(
        noise=noise, sigmas=torch.linspace(1, 0, 21), sampler=custom.KSamplerSelect.execute("euler")[0], seed=1,
        denoise_mask=None, latent_image=noise,
    )  # fmt: skip


def auto(patcher, cfg: float, batch=1, reuse=REUSE, *, kind="flux"):
    """What mode "auto" chooses for two workers, or the error."""
    noise = comfy_models.latent("flux", batch) if kind == "flux" else torch.zeros(batch, *comfy_unet.LATENT_SHAPE)
    try:
        return choose(ParallelConfig(step_reuse=reuse), 2, guider(patcher, cfg), arguments(noise))
    except Unsupported as error:
        return error


def test_every_capability_is_lost_with_the_name_and_no_other(lost):
    assert {capability for capability in NEEDS if against(capability)} == lost.of


def test_auto_chooses_what_is_left(lost, unet):
    off = StepReuseConfig()
    for patcher, kind, of_sequence in ((model("flux"), "flux", TOKENS), (unet, "unet", ROWS)):
        ways = {"cfg": (CFG, 3.0, 1, off), "data": (DATA, 1.0, 2, off), "step": (STEP, 1.0, 1, REUSE)}
        ways["ring"] = (of_sequence, 1.0, 1, off)
        for axis, (capability, cfg, batch, reuse) in ways.items():
            if kind == "unet" and axis == "step":
                continue  # this one is no flow model
            found = auto(patcher, cfg, batch, reuse, kind=kind)
            if capability not in lost.of:
                assert found.plan.degrees.named()[f"{axis}_degree"] == 2, (kind, axis, found)
            elif of_sequence not in lost.of:
                assert found.plan.degrees == Degrees(ring=2)
            else:
                assert isinstance(found, Unsupported) and not isinstance(found, NothingToShare)
                assert f"{lost.name} of {installed()} is not there, without which" in str(found)
                assert 'on_unsupported of Parallel Model to "run on one device"' in str(found)


def test_auto_says_that_step_reuse_did_nothing(lost):
    found = auto(model("flux"), 1.0)
    if STEP in lost.of and TOKENS not in lost.of:
        (warning,) = found.plan.ahead.warnings
        assert not found.plan.ahead.config.enabled
        assert warning.startswith(f"Step Reuse did nothing: {lost.name} of {installed()} is not there")


@pytest.mark.parametrize("degree", DEGREES)
def test_a_degree_that_was_set_is_refused_and_the_others_are_not(lost, degree):
    strategy = StrategyConfig(mode="manual", **{degree: 2})
    noise = comfy_models.latent("flux", 2)
    try:
        found = choose(ParallelConfig(strategy=strategy), 2, guider(model("flux"), 3.0), arguments(noise))
    except Unsupported as error:
        assert lost.of & DEGREES[degree]
        assert str(error).startswith(f"{degree} is 2, but {lost.name} of {installed()} is not there, without which")
        assert f"; set {degree} to 1" in str(error)
    else:
        assert not lost.of & DEGREES[degree]
        assert found.plan.degrees.named()[degree] == 2


@pytest.mark.parametrize("degree", DEGREES)
def test_the_node_refuses_it_before_anything_runs(lost, degree):
    pool, strategy = PoolConfig(devices="cpu*2"), StrategyConfig(mode="manual", **{degree: 2})
    said = _not_here(ParallelConfig(pool=pool, strategy=strategy), 2)
    # Of which kind the model is shows only when it is loaded.
    of_sequence = {ROWS, TOKENS} <= lost.of
    is_lost = of_sequence if DEGREES[degree] == {TOKENS} else bool(DEGREES[degree] & lost.of)
    is_lost = is_lost or EVERYTHING in lost.of
    assert (f"{lost.name} of {installed()}" in said) == is_lost
    assert bool(said) == is_lost


def test_easycache_alone_keeps_the_conditions_together(lost):
    cached = model("flux").clone()
    cached.model_options["transformer_options"]["easycache"] = object()
    found = auto(cached, 3.0, reuse=StepReuseConfig())
    shares = not isinstance(found, Unsupported) and found.plan.degrees.cfg == 2
    assert shares == (not lost.of & {CFG, EASYCACHE})


def test_calls_that_are_evaluated_alone_are_not_shared_either(lost):
    noise = comfy_models.latent("flux")
    alone = degrees_alone(Degrees(step=4), guider(model("flux"), 3.0), noise)
    assert (alone.cfg == 2) == (CFG not in lost.of)
    assert (alone.sequence > 1) == (TOKENS not in lost.of)


def test_nothing_that_is_lost_is_recommended(lost):
    warnings = unmet(ParallelConfig(), Degrees(step=2), guider(model("flux"), 3.0), comfy_models.latent("flux"))
    assert any("cfg_degree 2" in warning for warning in warnings) == (CFG not in lost.of)


def test_parallel_model_refuses_or_leaves_the_model_as_it_is(lost, caplog):
    pool = PoolConfig(devices="cpu*2")
    if EVERYTHING not in lost.of:
        assert CompactParallelModel.execute(model("flux"), pool=pool).args[0] is not model("flux")
        return
    with pytest.raises(Unsupported, match=rf"get_additional_models of {installed()} is not there.*on_unsupported"):
        CompactParallelModel.execute(model("flux"), pool=pool)
    made = CompactParallelModel.execute(model("flux"), pool=pool, on_unsupported="run on one device")
    assert made.args[0] is model("flux")
    assert f"Parallel Model runs on one device. {lost.name} of {installed()}" in caplog.text
