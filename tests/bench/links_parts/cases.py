"""The compared cases: every row of the tables, as data."""

from __future__ import annotations

from dataclasses import dataclass

EXACT, SIXTEEN, AUTO, REFERENCE = "exact", "16 bit", "auto", "reference's 2 bit"
OURS = {"8 bit": "int8", "4 bit": "4bit", "2 bit": "2bit", "1 bit": "1bit"}

_COMPRESSION = {
    EXACT: {"mode": "off"},
    AUTO: {"mode": "auto"},
    SIXTEEN: {"mode": "codec", "codec": "16bit", "warmup_codec": "16bit", "predictor": "none"},
    # CompactFusion's settings: its 2-bit levels, the constant predictor, a first call at 16 bits.
    REFERENCE: {
        "mode": "codec",
        "codec": "2bit_reference",
        "warmup_codec": "16bit",
        "warmup_calls": 1,
        "predictor": "previous",
    },
    **{sent: {"mode": "codec", "codec": codec} for sent, codec in OURS.items()},
}


@dataclass(frozen=True)
class Case:
    """One way to sample: its exchange, given by the inputs of Parallel Strategy (None is one device), and the form in
    which tensors are sent.

    `rates`: the links on which it is measured; None is all. `look_ahead`: that of Step Reuse; 1 is off.
    """

    exchange: str
    sent: str
    strategy: dict | None
    rates: tuple[str, ...] | None = None
    look_ahead: int = 1

    @property
    def name(self) -> str:
        """The name of the row."""
        if self.look_ahead > 1:
            return f"{self.exchange}, look_ahead {self.look_ahead}"
        return f"{self.exchange}, {self.sent}" if self.sent else self.exchange

    @property
    def compression(self) -> dict:
        """The inputs of Residual Compression."""
        return _COMPRESSION[self.sent]


SERIAL = Case("serial, one worker", "", None)
STEPS = "steps"


def cases(world: int) -> list[Case]:
    """The rows for `world` workers. The tiny model has two attention heads, so more than two workers combine Ulysses
    with an all_gather."""
    ulysses = "ulysses" if world == 2 else f"ulysses 2 x all_gather {world // 2}"
    by_condition = "cfg split" if world == 2 else f"cfg 2 x all_gather {world // 2}"
    strategies = {
        "all_gather": {"ring_degree": world},
        "ring": {"ring_degree": world, "ring_exchange": "ring"},
        ulysses: {"ulysses_degree": 2, "ring_degree": world // 2},
        "displaced": {"ring_degree": world, "ring_exchange": "displaced"},
        by_condition: {"cfg_degree": 2, "ring_degree": world // 2},
    }
    sent = {
        "all_gather": (EXACT, SIXTEEN, REFERENCE, *OURS, AUTO),
        "ring": (EXACT, SIXTEEN, "2 bit"),
        ulysses: (EXACT, SIXTEEN, "2 bit", AUTO),
        "displaced": (EXACT, "2 bit"),
        by_condition: (EXACT,),
    }
    without_overlap = (("all_gather", EXACT), ("all_gather", "2 bit"), ("ring", EXACT), (ulysses, EXACT))
    return [
        SERIAL,
        *(Case(exchange, word, strategies[exchange]) for exchange, words in sent.items() for word in words),
        *(
            Case(f"{exchange} without overlap", word, strategies[exchange] | {"overlap": False}, ("1gbit",))
            for exchange, word in without_overlap
        ),
        Case(STEPS, EXACT, {"step_degree": world}, look_ahead=world),
    ]


def equal_time_cases(world: int) -> list[Case]:
    """The cases that are compared at equal wall clock; the time of BUDGET, ours at 2 bit, is the budget."""
    chosen = {("all_gather", sent) for sent in (EXACT, SIXTEEN, REFERENCE, "2 bit", "1 bit")}
    return [
        case
        for case in cases(world)
        if case is SERIAL or (case.exchange, case.sent) in chosen or (case.sent == EXACT and _rival(case))
    ]


def _rival(case: Case) -> bool:
    return case.exchange == "displaced" or (case.strategy.get("ulysses_degree", 1) > 1 and case.rates is None)


BUDGET = "all_gather, 2 bit"
