"""What xDiT cannot do, or would do wrong, is refused in one sentence before anything is set up."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.attention.unsupported import Unsupported
from compact_parallel.runtime.config import CompressionConfig, ConfigError, XditConfig
from compact_parallel.runtime.parallel.mesh import Degrees
from compact_parallel.runtime.pipelines.xdit import loading, supported
from compact_parallel.runtime.pipelines.xdit.exchange import require_supported
from tiny_pipelines import arguments, build

PLAIN = XditConfig()
PIPEFUSION = XditConfig(pipefusion_degree=2)


@pytest.fixture(scope="module")
def pipes():
    return {name: build(name) for name in ("flux", "pixart", "sd3", "latte", "svd")}


def check(pipes, name, world=2, settings=PLAIN, changes=None, **degrees):
    call = arguments(name) | {"generator": torch.Generator()} | (changes or {})
    supported.check(pipes[name], settings, Degrees(**degrees), call, world)


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [
        ("svd", {"ulysses": 2}, "StableVideoDiffusionPipeline"),
        ("flux", {"ulysses": 2, "world": 4}, "multiply to 2"),
        ("flux", {"settings": PIPEFUSION, "ulysses": 2}, "pipefusion_degree 2"),
        ("flux", {"world": 1}, "has 1 worker"),
        ("flux", {"step": 2}, "step_degree is 2"),
        ("flux", {"data": 2}, "data_degree is 2"),
        ("flux", {"cfg": 2}, "cfg_degree is 2"),
        ("pixart", {"cfg": 4, "world": 4}, "cfg_degree is 4"),
        ("latte", {"cfg": 2}, "cfg_degree is 2"),
        ("latte", {"settings": PIPEFUSION}, "pipefusion_degree is 2"),
        ("sd3", {"ulysses": 2}, "attend twice"),
        ("flux", {"ulysses": 3, "world": 3}, "4 attention heads"),
        ("pixart", {"settings": XditConfig(pipefusion_degree=3), "world": 3}, "2 blocks"),
        ("flux", {"ulysses": 2, "changes": {"generator": None}}, "give the run a seed"),
        ("pixart", {"ulysses": 2, "changes": {"guidance_scale": 1.0}}, "guidance_scale is 1.0"),
        ("flux", {"ulysses": 2, "changes": {"max_sequence_length": 15}}, "15 tokens"),
        ("flux", {"ulysses": 2, "changes": {"prompt_embeds": torch.zeros(1, 7, 32)}}, "7 tokens"),
    ],
)
def test_one_sentence_says_what_and_the_way_out(pipes, name, given, says):
    with pytest.raises((Unsupported, ConfigError), match=says) as caught:
        check(pipes, name, **given)
    assert str(caught.value).count(". ") == 0
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("flux", {"ulysses": 2}),
        ("flux", {"settings": PIPEFUSION, "changes": {"max_sequence_length": 15}}),
        ("pixart", {"cfg": 2}),
        ("latte", {"ring": 2}),
    ],
)
def test_what_works_is_not_refused(pipes, name, given):
    check(pipes, name, **given)


class Wrapped:
    """Knows fewer arguments than the pipeline, and other defaults."""

    def __call__(self, prompt=None, guidance_scale=7.0, num_inference_steps=99, **kwargs):
        raise AssertionError("only its arguments are read")


def test_the_defaults_are_those_of_the_pipeline(pipes):
    found = supported.arguments_for(pipes["flux"], Wrapped(), {"prompt": "a", "true_cfg_scale": 1.0})
    assert found == {"prompt": "a", "guidance_scale": 3.5, "num_inference_steps": 28}


def test_an_argument_that_would_be_ignored_is_refused(pipes):
    with pytest.raises(Unsupported, match="true_cfg_scale is set"):
        supported.arguments_for(pipes["flux"], Wrapped(), {"true_cfg_scale": 2.0})


def test_a_scheduler_whose_noise_it_ignores_is_refused(pipes):
    pipe = build("flux")
    pipe.scheduler.register_to_config(stochastic_sampling=True)
    with pytest.raises(Unsupported, match="stochastic_sampling"):
        check({"flux": pipe}, "flux", ulysses=2)


def test_text_cannot_be_kept_exact():
    require_supported(CompressionConfig())
    with pytest.raises(ConfigError, match="keep_text_exact"):
        require_supported(CompressionConfig(keep_text_exact=True))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"pipefusion_degree": 0}, "pipefusion_degree is 0"),
        ({"patches": -1, "pipefusion_degree": 2}, "patches is -1"),
        ({"patches": 4}, "patches is 4 but pipefusion_degree is 1"),
        ({"pipefusion_degree": 2, "warmup_steps": 0}, "warmup_steps is 0"),
    ],
)
def test_settings_that_cannot_work(given, says):
    with pytest.raises(ConfigError, match=says):
        XditConfig(**given)


def test_settings_have_a_json_form():
    settings = XditConfig(pipefusion_degree=2, patches=4, warmup_steps=3)
    assert XditConfig.from_json(settings.to_json()) == settings
    assert (settings.pieces, PIPEFUSION.pieces) == (4, 2)


def test_another_xfuser_gives_one_sentence():
    with pytest.raises(Unsupported, match=r"has no ring_attn.*0\.7\.0"):
        loading.part(loading, "ring_attn")
    with pytest.raises(Unsupported, match=r"xfuser\.not_there cannot be imported"):
        loading.load("xfuser.not_there")
