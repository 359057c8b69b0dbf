"""The folder of codecs is the one place that knows them: what it tells the others, and what it refuses."""

from __future__ import annotations

import re
from copy import copy

import pytest
from compact_parallel.runtime.compression.codecs import (
    BY_IDENT,
    BY_NAME,
    COARSE_TO_EXACT,
    OFFERED,
    registered,
    require_known,
)
from compact_parallel.runtime.compression.kernels import ops
from compact_parallel.runtime.compression.rate import BUDGETED, LADDER
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.config import CompressionConfig, ConfigError
from compact_parallel.runtime.planner.compression import CANDIDATES
from compact_parallel.runtime.report.ledger import Ledger
from residuals import gauss, laplace, lost, round_trip


def test_what_others_know_of_a_codec_is_what_it_says_itself():
    """Attributes of codecs make these lists; a change here is one that users see."""
    assert OFFERED == ("int8", "fp8", "4bit", "3bit", "2bit", "1bit", "low_rank", "low_rank_4bit", "top_k")
    assert COARSE_TO_EXACT == ("skip", "1bit", "2bit", "3bit", "4bit", "fp8", "int8")
    assert [codec.name for codec in LADDER] == ["skip", "1bit", "2bit", "3bit", "4bit", "int8"]
    assert [codec.name for codec in BUDGETED] == ["skip", "low_rank", "1bit", "2bit", "3bit", "4bit", "int8", "16bit"]
    assert CANDIDATES == ("int8", "4bit", "3bit", "2bit")
    assert {BY_IDENT[ident].name for ident in ops.IDENTS} == {"1bit", "2bit", "3bit", "4bit", "int8", "fp8"}


@pytest.mark.parametrize("codec", [codec for codec in LADDER if 0 < codec.value_bits < 8], ids=lambda codec: codec.name)
def test_the_distortion_is_that_of_a_gaussian_residual(codec):
    gaussian, other = gauss(256, 512), laplace(256, 512)
    assert lost(gaussian, round_trip(codec, gaussian)) == pytest.approx(codec.distortion, rel=0.03)
    assert lost(other, round_trip(codec, other)) != pytest.approx(codec.distortion, rel=0.1)


@pytest.mark.parametrize("field", ["codec", "warmup_codec"])
@pytest.mark.parametrize("name", ["3.5bit", "skip"])
def test_a_codec_that_does_not_exist_is_named_with_those_that_do(field, name):
    config = CompressionConfig(mode="codec", **{field: name})
    with pytest.raises(ConfigError) as caught:
        require_known(config)
    assert str(caught.value) == (
        f"{field} is {name!r}; choose one of int8, fp8, 4bit, 3bit, 2bit, 1bit, low_rank, low_rank_4bit, top_k, 16bit, "
        "2bit_reference."
    )
    with pytest.raises(ConfigError, match=f"{field} is '{name}'; choose one of int8, fp8"):
        make_wire(config, Ledger(), expected_calls=2)


@pytest.mark.parametrize("name", [*OFFERED, "16bit", "2bit_reference"])
def test_a_codec_that_exists_can_be_used_at_once_and_as_warm_up(name):
    require_known(CompressionConfig(codec=name, warmup_codec=name))


def made(name, ident, **attributes):
    codec = copy(BY_NAME["int8"])
    vars(codec).update(name=name, ident=ident, **attributes)
    return codec


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (made("new", 201), "Codec 'new' of int8.py has the name of a codec of int8.py; give one of them another name."),
        (
            made("newer", 200),
            "Codec 'newer' of int8.py has ident 200, which codec 'new' of int8.py has; give the newer one another.",
        ),
        (made("newer", 0), "Codec 'newer' of int8.py has ident 0; it must be from 1 to 254."),
        (made("newer", 255), "Codec 'newer' of int8.py has ident 255; it must be from 1 to 254."),
        (made("off", 201), "Codec 'off' of int8.py has the name of what is not compressed; give it another name."),
        (
            made("newer", 201, value_bits=None),
            "Codec 'newer' of int8.py has a distortion but no value_bits; give it both or neither.",
        ),
    ],
)
def test_codecs_that_cannot_be_told_apart_are_refused(second, sentence):
    first = made("new", 200)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        registered([first, second])
    assert list(registered([first, made("newer", 201)])) == ["new", "newer"]
