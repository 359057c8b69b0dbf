"""The folder of exchanges is the one place that knows them: what it tells the others, and what it refuses."""

from __future__ import annotations

import pytest
from compact_parallel.nodes.strategy import CompactParallelStrategy
from compact_parallel.runtime.attention.exchanges import BY_NAME, OFFERED, Exchange, registered, require_known
from compact_parallel.runtime.config import ConfigError, StrategyConfig


def test_what_others_know_of_an_exchange_is_what_it_says_itself():
    """Attributes of exchanges make these lists; a change here is one that users see."""
    assert OFFERED == ("all_gather", "ring", "displaced")
    assert StrategyConfig().ring_exchange == OFFERED[0]
    assert [name for name, exchange in BY_NAME.items() if not exchange.keeps_function] == ["ring"]
    assert [name for name, exchange in BY_NAME.items() if exchange.overlaps_heads] == ["all_gather"]


def test_the_node_offers_what_the_folder_holds():
    modes = next(one for one in CompactParallelStrategy.define_schema().inputs if one.id == "mode").options
    (manual,) = (option for option in modes if option.key == "manual")
    (combo,) = (one for one in manual.inputs if one.id == "ring_exchange")
    assert (combo.options, combo.default) == (["all_gather", "ring", "displaced"], "all_gather")
    assert combo.tooltip == (
        "all_gather: one exchange, then your own attention function. ring: chunk by chunk while computing, with "
        "torch's attention kernels; needs less memory. displaced: works with the other workers' keys and values of "
        "the step before (DistriFusion); nobody waits, but the picture changes."
    )


@pytest.mark.parametrize("name", OFFERED)
def test_an_exchange_that_exists_can_be_used(name):
    require_known(StrategyConfig(ring_exchange=name))


def test_one_that_does_not_exist_is_named_with_those_that_do():
    for use in (require_known, lambda config: CompactParallelStrategy.execute(mode={"mode": "manual", **config})):
        config = {"ring_exchange": "pigeon"}
        with pytest.raises(ConfigError) as caught:
            use(StrategyConfig(**config) if use is require_known else config)
        assert str(caught.value) == "ring_exchange is 'pigeon'; choose one of all_gather, ring, displaced."


class First(Exchange):
    name, tooltip, place = "first", "", 1


class Namesake(First):
    place = 2


class Later(First):
    name = "later"


def test_exchanges_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match=r"^Exchange 'first' of .*\.py has the name of that of .*; give one of them"):
        registered([First, Namesake])
    assert list(registered([Later, First])) == ["first", "later"]
