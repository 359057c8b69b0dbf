"""What a sampler, guider or patch learns during a run is there for the next, as after a run of stock ComfyUI."""

from __future__ import annotations

import asyncio
import copy
import gc
import sys
from pathlib import Path

import cloudpickle
import comfy.samplers
import comfy_extras.nodes_apg
import comfy_models
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.shipping.import_finders import idle_server
from compact_parallel.runtime.comfy.shipping.pickling import PassThrough
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.planner.experience import TRIES
from compact_parallel.runtime.pool.errors import JobFailed
from sampling import TOLERANCE, ksampler, model, parallel, pool, relative_error, report, sample_with

import nodes as stock

cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRANGEMENTS = {"all_gather 2": {"ring_degree": 2}, "cfg 2": {"cfg_degree": 2}}
everywhere = pytest.mark.parametrize("strategy", ARRANGEMENTS.values(), ids=ARRANGEMENTS)


def euler(wrapped, x, sigmas, extra_args=None, callback=None, disable=None, bank=None, add=0.0):
    """Euler that keeps every latent, or adds some of those that were kept."""
    kept = list(bank)
    for step in range(len(sigmas) - 1):
        denoised = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
        x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        if add:
            x = x + add * kept[step]
        else:
            bank.append(x.clone())
    return x


def keeping(bank, **options):
    """The SAMPLER that keeps its latents in `bank`."""
    return comfy.samplers.KSAMPLER(euler, extra_options={"bank": bank, **options})


def two_samplers(patcher):
    """The picture of the second of two samplers that share a list, and the list."""
    bank = []
    sample_with(patcher, keeping(bank))
    return sample_with(patcher, keeping(bank, add=0.1)), bank


@everywhere
def test_a_list_that_a_sampler_fills_for_the_next(strategy):
    expected, bank = two_samplers(model("flux"))
    samples, returned = two_samplers(parallel(model("flux"), 2, **strategy))
    alone = sample_with(model("flux"), keeping([]))
    assert relative_error(alone, expected) > 100 * TOLERANCE  # without what was kept
    assert len(returned) == len(bank) == 4
    assert relative_error(samples, expected) < TOLERANCE
    assert all(relative_error(one, other) < TOLERANCE for one, other in zip(returned, bank))


def counting(patcher, counts):
    """The MODEL with a wrapper that counts, in the workers, the tensors that are alive there when a run begins."""

    def count(executor, *args, **kwargs):
        gc.collect()
        counts.append(sum(issubclass(type(obj), torch.Tensor) for obj in gc.get_objects()))
        return executor(*args, **kwargs)

    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "counting", count)
    return patcher


def test_many_runs_leave_nothing_behind():
    counts, banks = [], []
    patcher = counting(parallel(model("flux"), 2, ring_degree=2), counts)
    for _ in range(20):
        banks.append([])
        sample_with(patcher, keeping(banks[-1]))
    assert [len(bank) for bank in banks] == [4] * 20
    assert len(counts) == 20 and max(counts[3:]) == min(counts[3:])


class Seen:
    """What a patch has seen."""

    def __init__(self, mean):
        self.mean = mean


def remembering(patcher):
    """A patch that adds some of what it remembers of all calls so far, in every way, and a function that tells it."""
    calls, means, tensor, seen = 0, {}, torch.zeros(1), []

    def remember(args):
        nonlocal calls
        denoised = args["denoised"]
        mean = float(denoised.mean())
        calls += 1
        means[calls] = mean
        tensor.add_(mean)
        seen.append(Seen(denoised.mean()))
        return denoised + 0.01 * (calls + sum(means.values()) + float(tensor) + sum(float(s.mean) for s in seen))

    patched = patcher.clone()
    patched.set_model_sampler_post_cfg_function(remember)
    return patched, lambda: (calls, list(means), float(tensor), [type(one) for one in seen])


@everywhere
def test_variables_dicts_tensors_and_new_objects_of_a_patch(strategy):
    patched, told = remembering(model("flux"))
    first, second = (ksampler(patched, "flux") for _ in range(2))
    assert relative_error(first, second) > 100 * TOLERANCE
    ours, ours_told = remembering(model("flux"))
    ours = parallel(ours, 2, **strategy)
    assert relative_error(ksampler(ours, "flux"), first) < TOLERANCE
    assert relative_error(ksampler(ours, "flux"), second) < TOLERANCE
    calls, keys, tensor, kinds = ours_told()
    assert (calls, keys, kinds) == (8, [*range(1, 9)], [Seen] * 8)
    assert abs(tensor - told()[2]) < 1e-4


PACK = Path(__file__).resolve().parents[1] / "packs" / "keeps_state"


@pytest.fixture(scope="module")
def pack():
    """ComfyUI's own node loader has loaded the pack."""
    import server

    if not hasattr(server.PromptServer, "instance"):
        idle_server(server.PromptServer)
    assert asyncio.run(stock.load_custom_node(str(PACK)))


def node(name, **inputs):
    kind = stock.NODE_CLASS_MAPPINGS[name]
    return getattr(kind(), kind.FUNCTION)(**inputs)[0]


@everywhere
def test_what_a_packs_objects_and_modules_remember(pack, strategy):
    def run(patcher):
        node("FixtureForgetDrift")
        drifting = node("FixtureDrift", model=patcher)
        ours = parallel(drifting, 2, **strategy)
        return lambda ahead: ksampler(ours if ahead else drifting, "flux")

    picture = run(model("flux"))
    expected = [picture(False) for _ in range(2)]
    remembered = node("FixtureTellDrift")
    assert relative_error(*expected) > 100 * TOLERANCE
    picture = run(model("flux"))
    samples = [picture(True) for _ in range(2)]
    assert all(relative_error(*pair) < TOLERANCE for pair in zip(samples, expected))
    told = node("FixtureTellDrift")
    assert told["calls"] == remembered["calls"] == 8 and told["names"] == remembered["names"]
    assert told["drift"] == pytest.approx(remembered["drift"], rel=1e-4)


def counting_attention(patcher):
    """An attention that grows sharper from call to call, over all runs, and a function that tells how often it ran."""
    calls = 0

    def override(func, q, k, v, heads, *args, **kwargs):
        nonlocal calls
        calls += 1
        return func(q, k * (1 + 0.01 * calls), v, heads, *args, **kwargs)

    patched = patcher.clone()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched, lambda: calls


def test_what_a_patch_within_the_model_counts_where_the_tokens_are_split():
    patched, count = counting_attention(model("flux"))
    first, second = (ksampler(patched, "flux") for _ in range(2))
    assert relative_error(first, second) > 100 * TOLERANCE
    ours, our_count = counting_attention(model("flux"))
    ours = parallel(ours, 2, ulysses_degree=2)
    assert relative_error(ksampler(ours, "flux"), first) < TOLERANCE
    assert relative_error(ksampler(ours, "flux"), second) < TOLERANCE
    assert our_count() == count() > 0


def banking(patcher):
    """A patch within the model that keeps the mean of what it sees, of the conditions it sees."""
    bank = []

    def around_the_model(apply_model, arguments):
        output = apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
        bank.append(output.mean(dim=(1, 2, 3)))
        return output + 0.1 * sum(float(kept.mean()) for kept in bank)

    patched = patcher.clone()
    patched.set_model_unet_function_wrapper(around_the_model)
    return patched, bank


def test_a_bank_that_sees_one_condition_on_each_worker_is_refused_by_name():
    patched, bank = banking(model("flux"))
    with pytest.raises(JobFailed, match=r"banking.<locals>.around_the_model|`bank` of .*") as caught:
        ksampler(parallel(patched, 2, cfg_degree=2), "flux")
    assert "something else on every worker" in str(caught.value) and "set cfg_degree to 1" in str(caught.value)
    assert bank == []
    expected = ksampler(banking(model("flux"))[0], "flux")
    fallback = parallel(patched, 2, on_unsupported="run on one device", cfg_degree=2)
    assert torch.equal(ksampler(fallback, "flux"), expected)
    assert "something else on every worker" in report()["fallbacks"][0]


REUSE = StepReuseConfig(mode="look_ahead", look_ahead=2, warmup_calls=1)


@pytest.mark.parametrize(
    "patched",
    (
        lambda: remembering(model("flux"))[0],
        lambda: comfy_extras.nodes_apg.APG.execute(model("flux"), 1.0, 5.0, 0.5)[0],
    ),
    ids=("a pack's", "ComfyUI's APG"),
)
def test_step_reuse_with_a_patch_that_remembers_the_calls_is_refused(patched):
    expected = ksampler(patched(), "flux", steps=10)
    ours = parallel(patched(), 2, step_reuse=REUSE, step_degree=2)
    with pytest.raises(JobFailed, match=r"remembers what it has seen of this run.*unplug Step Reuse"):
        ksampler(ours, "flux", steps=10)
    fallback = parallel(patched(), 2, on_unsupported="run on one device", step_reuse=REUSE, step_degree=2)
    assert torch.equal(ksampler(fallback, "flux", steps=10), expected)


def test_what_always_fails_to_come_back_is_not_tried_again_and_again():
    """It costs a whole run to see it."""
    patched, _ = banking(model("flux"))
    fallback = parallel(patched, 2, on_unsupported="run on one device", cfg_degree=2)
    expected = [ksampler(banking(model("flux"))[0], "flux", steps=3) for _ in range(TRIES)]
    reasons = []
    for _ in range(TRIES + 1):
        patched.model_options["model_function_wrapper"].__closure__[0].cell_contents.clear()
        assert torch.equal(ksampler(fallback, "flux", steps=3), expected[0])
        reasons += report()["fallbacks"]
    assert ["workers were not asked again" in reason for reason in reasons] == [False] * TRIES + [True]


class KeepsOptions:
    """A patch that keeps what it was last called with: the options are full of this pack's own."""

    kept, calls = None, 0

    def __call__(self, arguments):
        """Moves the prediction by how often it was called."""
        self.kept = arguments
        self.calls += 1
        return arguments["denoised"] * (1 + 0.01 * self.calls)


def test_a_patch_that_keeps_the_options_of_a_call():
    def patched():
        kept, clone = KeepsOptions(), model("flux").clone()
        clone.set_model_sampler_post_cfg_function(kept)
        return kept, clone

    _, stocks = patched()
    expected = [ksampler(stocks, "flux") for _ in range(2)]
    assert relative_error(*expected) > 100 * TOLERANCE
    kept, clone = patched()
    ours = parallel(clone, 2, ring_degree=2)
    for picture in expected:
        assert relative_error(ksampler(ours, "flux"), picture) < TOLERANCE
    assert kept.kept["model"] is clone.model and kept.calls == 8
    told = kept.kept["model_options"]["transformer_options"]["wrappers"]["apply_model"]
    assert told and all(type(one) is PassThrough for several in told.values() for one in several)


class Narrowing:
    """A patch with a layer that it casts when it is first called."""

    def __init__(self):
        self.layer = torch.nn.Linear(1, 1).double()

    def __call__(self, arguments):
        """Through the layer."""
        x = arguments["denoised"]
        return x + self.layer.to(x.dtype)(x[..., None])[..., 0] * 0.1


def test_a_patch_that_casts_its_layer_in_the_run():
    narrowing = Narrowing()
    again = copy.deepcopy(narrowing)
    patched, ours = model("flux").clone(), model("flux").clone()
    patched.set_model_sampler_post_cfg_function(narrowing)
    ours.set_model_sampler_post_cfg_function(again)
    expected = ksampler(patched, "flux")
    assert relative_error(ksampler(parallel(ours, 2, ring_degree=2), "flux"), expected) < TOLERANCE
    assert again.layer.weight.dtype == narrowing.layer.weight.dtype == torch.float32
    assert relative_error(ksampler(model("flux"), "flux"), expected) > 100 * TOLERANCE


@everywhere
def test_what_cannot_come_back_is_named_with_its_pack(pack, strategy):
    locking = node("FixtureKeepLock", model=model("flux"))
    starts = pool(2).starts
    named = r"`kept` of KeepLock.*keep \(custom node pack keeps_state\).*cannot come back.*lock.*run on one device"
    with pytest.raises(JobFailed, match=named):
        ksampler(parallel(locking, 2, **strategy), "flux")
    fallback = parallel(locking, 2, on_unsupported="run on one device", **strategy)
    samples = ksampler(fallback, "flux")
    assert torch.equal(samples, ksampler(node("FixtureKeepLock", model=model("flux")), "flux"))
    assert "cannot come back" in report()["fallbacks"][0]
    assert pool(2).starts == starts


class Remembering(comfy.samplers.CFGGuider):
    """A guider that keeps its last prediction for the next run."""

    last = None

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """Leans towards what it said last."""
        denoised = super().predict_noise(x, timestep, model_options, seed)
        leaning = denoised if self.last is None else 0.9 * denoised + 0.1 * self.last
        self.last = denoised
        return leaning


def twice_with(patcher):
    guider = Remembering(patcher)
    guider.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", 4)
    latent = comfy_models.latent("flux")
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    sampler = comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return [guider.sample(noise, latent, sampler, sigmas, seed=1) for _ in range(2)]


@everywhere
def test_what_a_guider_keeps(strategy):
    expected = twice_with(model("flux"))
    assert relative_error(*expected) > 100 * TOLERANCE
    samples = twice_with(parallel(model("flux"), 2, **strategy))
    assert all(relative_error(*pair) < TOLERANCE for pair in zip(samples, expected))


def noisy(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
    """Takes noise from torch's global generator, which no node has seeded."""
    for step in range(len(sigmas) - 1):
        denoised = wrapped(x, sigmas[step] * x.new_ones([x.shape[0]]), **extra_args)
        x = denoised + torch.randn_like(x) * sigmas[step + 1]
    return x


def test_the_global_generator_stands_where_the_run_has_left_it():
    def twice(patcher):
        torch.manual_seed(3)
        return [sample_with(patcher, comfy.samplers.KSAMPLER(noisy)) for _ in range(2)]

    expected = twice(model("flux"))
    assert relative_error(*expected) > 100 * TOLERANCE
    samples = twice(parallel(model("flux"), 2, ring_degree=2))
    assert all(relative_error(*pair) < TOLERANCE for pair in zip(samples, expected))


def failing(wrapped, x, sigmas, extra_args=None, callback=None, disable=None, bank=None):
    """Keeps something, then fails."""
    bank.append(wrapped(x, sigmas[0] * x.new_ones([x.shape[0]]), **extra_args))
    raise ValueError("no more of this")


def test_of_a_run_that_failed_nothing_returns():
    bank = []
    sampler = comfy.samplers.KSAMPLER(failing, extra_options={"bank": bank})
    with pytest.raises(JobFailed, match="no more of this"):
        sample_with(parallel(model("flux"), 2, ring_degree=2), sampler)
    assert bank == []
