"""UNets whose rows are split over real processes: one evaluation against the same evaluation in one process."""

import pytest
import torch
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.attention.unsupported import WAY_OUT
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.report.metrics import difference
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.rows.row_exchange import RowExchange
from compact_parallel.runtime.sharding.rows.row_handlers import SEES_ALL
from distributed import launch
from evaluating import evaluate_split, evaluate_whole
from sequence_parts import axes
from tiny_diffusion import cascade, needs_comfyui, unet, unet_patched

pytestmark = needs_comfyui
LIMIT = 1e-5
WAYS = {
    2: [(1, 2, "all_gather"), (1, 2, "ring"), (2, 1, "all_gather")],
    3: [(1, 3, "all_gather"), (1, 3, "ring")],
}
"""(ulysses degree, ring degree, exchange) by the number of ranks."""
IN_ALL_WAYS = ("unet, rows that do not divide", "unet xl, odd", "unet video, odd", "cascade c", "cascade b")


def slots(given):
    """One cond per batch entry, or two of a film each."""
    return batch_slots({"uuids": ["first", "second"]}, len(given["x"]))


def sharding_of(module, degrees, exchange="all_gather", wire=None, ledger=None):
    attention = SequenceAttention(*degrees, exchange, wire or RawWire(), ledger or Ledger())
    return split_over_ranks(module, attention)


class OwnKeysOnly(SequenceAttention):
    """A negative control: no K or V from anybody else."""

    def __call__(self, func, q, k, v, heads, *, layout, tag, **kwargs):
        return func(q, k, v, heads, **kwargs)


class NoHalos(RowExchange):
    """A negative control: every rank's rows end in zeros."""

    def with_halos(self, x, rows, needs):
        first, last = rows.rows(self.axis.index)
        start, end = needs[self.axis.index]
        return torch.nn.functional.pad(x, (0, 0, first - start, end - last))


class OwnStatistics(RowExchange):
    """A negative control: every rank normalises by what it sees."""

    def from_all(self, x):
        return x.expand(self.axis.size, *x.shape)


def without(module, degrees, what):
    """A sharding that leaves one kind of exchange out."""
    sharding = sharding_of(module, degrees)
    if what == "keys":
        sharding.attention = OwnKeysOnly(*degrees, "all_gather", RawWire(), Ledger())
    else:
        kind = {"halos": NoHalos, "statistics": OwnStatistics}[what]
        sharding._exchange = kind(sharding._exchange.axis, Ledger())
    return sharding


@torch.inference_mode()  # as ComfyUI samples
def errors_of_cases(rank, world):
    """{(case, way): relative error}, {(case, what): the same without one kind of exchange}."""
    degrees = {way[:2]: axes(rank, *way[:2]) for way in WAYS[world]}
    errors, controls = {}, {}
    for name, (build, given) in (unet.cases() | cascade.cases()).items():
        module = build()
        whole = evaluate_whole(sharding_of(module, degrees[1, world]), **given)
        for way in WAYS[world] if name in IN_ALL_WAYS else WAYS[world][:1]:
            sharding = sharding_of(module, degrees[way[:2]], way[2])
            errors[name, way] = difference(evaluate_split(sharding, slots(given), **given), whole)
        for what in ("keys", "halos", "statistics") if name in IN_ALL_WAYS else ():
            sharding = without(module, degrees[1, world], what)
            controls[name, what] = difference(evaluate_split(sharding, slots(given), **given), whole)
    return errors, controls


@pytest.mark.parametrize("world", WAYS)
def test_split_equals_whole_and_every_exchange_is_needed(tmp_path, world):
    for errors, controls in launch(errors_of_cases, world, tmp_path, timeout_s=600):
        assert {name for name, _ in errors} == {*unet.cases(), *cascade.cases()}
        assert {case: error for case, error in errors.items() if not error < LIMIT} == {}
        assert {case: error for case, error in controls.items() if not error > 100 * LIMIT} == {}
        assert len(controls) == 3 * len(IN_ALL_WAYS)


@torch.inference_mode()
def errors_of_patched_cases(rank, world):
    """{case: (relative error, difference that the patch makes, warnings)}."""
    degrees, found = axes(rank, 1, world), {}
    for name, (build, given) in unet_patched.cases().items():
        module, ledger = build(), Ledger()
        sharding = sharding_of(module, degrees, ledger=ledger)
        whole = evaluate_whole(sharding, **given())
        error = difference(evaluate_split(sharding, slots(given()), **given()), whole)
        plain = {key: value for key, value in given().items() if key not in ("transformer_options", "control")}
        changed = difference(evaluate_whole(sharding, **plain), whole)
        found[name] = error, changed, ledger.to_json()["warnings"]
    return found


@pytest.mark.parametrize("world", (2, 3))
def test_patches_and_residuals_see_what_they_see_on_one_device(tmp_path, world):
    on_all_rows = {name for name in unet_patched.cases() if "self-attention" in name or "film" in name}
    for found in launch(errors_of_patched_cases, world, tmp_path, timeout_s=600):
        assert {name: error for name, (error, _, _) in found.items() if not error < LIMIT} == {}
        assert {name: changed for name, (_, changed, _) in found.items() if not changed > 100 * LIMIT} == {}
        assert {name for name, (_, _, warnings) in found.items() if warnings} == on_all_rows
        assert {warning for _, _, warnings in found.values() for warning in warnings} == {SEES_ALL}


def refused(sharding, given, changes=None):
    """The sentence with which a forward is refused; the model is as it was afterwards."""
    with pytest.raises(Unsupported) as refusal:
        evaluate_split(sharding, slots(given), **given | (changes or {}))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in sharding.module.modules())
    return str(refusal.value)


def shrink(h, skip, options):
    halves = options["block"][1] == 5  # the last one
    return tuple(torch.nn.functional.avg_pool2d(x, 2) if halves else x for x in (h, skip))


@torch.inference_mode()
def sentences(rank, world):
    degrees = axes(rank, 1, world)
    given, found = unet.unet_inputs(), {}
    module = unet.unet()
    sharding = sharding_of(module, degrees)

    def patches(**kinds):
        return {"transformer_options": {"patches": {kind: [patch] for kind, patch in kinds.items()}}}

    found["shrink"] = refused(sharding, given, patches(output_block_patch=shrink))
    found["kind"] = refused(sharding, given, patches(double_block=shrink))
    found["replaced"] = refused(sharding, given, {"transformer_options": {"patches_replace": {"dit": {1: shrink}}}})
    found["tokens"] = refused(sharding, given, patches(middle_patch=lambda x, options: x[:, ::2]))
    found["batch"] = refused(sharding, given, {"x": given["x"][:1]})

    def adds_later(emb, channels, options):
        options["patches"]["middle_patch"] = [lambda x, options: x]
        return emb

    found["later"] = refused(sharding, given, patches(emb_patch=adds_later))

    module.input_blocks[1][0].out_layers[0] = torch.nn.InstanceNorm2d(32)
    found["module"] = refused(sharding, given)
    module.input_blocks[1][0].out_layers[0] = torch.nn.Conv2d(32, 32, 5, padding=1)
    found["convolution"] = refused(sharding, given)
    found["pooling"] = refused(sharding_of(unet.unet(conv_resample=False), degrees), given)
    found["up and down"] = refused(sharding_of(unet.unet(resblock_updown=True), degrees), given)
    again = evaluate_split(sharding_of(unet.unet(), degrees), slots(given), **given)
    return found, difference(again, unet.unet()(**given))


def test_what_is_refused(tmp_path):
    expected = {
        "shrink": "a patch that makes a feature map of 8 rows where 16 were expected",
        "kind": "a patch of the kind double_block",
        "replaced": "a patch of the kind dit",
        "tokens": "a patch inside a transformer that makes 80 tokens of 160",
        "batch": "1 batch entries where 2 were expected",
        "later": "a patch (middle_patch) that is added while the model runs",
        "module": "a module of the class torch.nn.modules.instancenorm.InstanceNorm2d",
        "convolution": "a convolution of kernel 5, stride 1 and padding 1",
        "pooling": "a module of the class torch.nn.modules.pooling.AvgPool2d",
        "up and down": "a module of the class torch.nn.modules.pooling.AvgPool2d",
    }
    for found, again in launch(sentences, 2, tmp_path):
        assert found.keys() == expected.keys()
        for name, sentence in found.items():
            assert sentence.startswith(f"UNet cannot be split over ranks with {expected[name]}"), name
            assert sentence.endswith(f"; {WAY_OUT}")
        assert again < LIMIT


def test_rows_are_split_along_one_axis():
    degrees = Axis("ulysses", (0, 1), 0), Axis("ring", (0, 2), 0)
    with pytest.raises(Unsupported, match="is 2 and ulysses_degree is 2; set ring_degree to 4 and the other to 1"):
        sharding_of(unet.unet(), degrees)


@torch.inference_mode()
def compressed(rank, world):
    """Relative errors of three calls per exchange, and (bytes sent, bytes at 16 bits) raw and compressed."""
    degrees, module, given = axes(rank, 1, world), unet.unet(), unet.unet_inputs(height=22)
    raw, errors, totals = Ledger(), {}, {}
    sharding = sharding_of(module, degrees, ledger=raw)
    whole = evaluate_whole(sharding, **given)
    for _ in range(3):
        evaluate_split(sharding, slots(given), **given)
    for exchange in ("all_gather", "ring"):
        ledger = Ledger()
        wire = make_wire(CompressionConfig(mode="codec", codec="int8"), ledger, 3)
        sharding = sharding_of(module, degrees, exchange, wire, ledger)
        errors[exchange] = [difference(evaluate_split(sharding, slots(given), **given), whole) for _ in range(3)]
        totals[exchange] = ledger.totals()
    return errors, raw.totals(), totals


def test_keys_and_the_picture_are_compressed_and_all_bytes_are_counted(tmp_path):
    outcomes = launch(compressed, 2, tmp_path)
    for errors, raw, totals in outcomes:
        assert raw[0] == 2 * raw[1] > 0  # float32
        for exchange, each in errors.items():
            assert LIMIT < each[0] < 0.02
            assert max(each[1:]) < each[0] / 10  # the inputs are the same: what was lost follows
            assert totals[exchange][1] == raw[1]
            assert totals[exchange][0] < 0.6 * raw[0]
    # Per call rank 1 sends K and V of three transformers of 32 channels, three of 64 below them and one at the bottom.
    keys = 4 * 2 * 2 * (3 * 32 * 10 * 10 + 3 * 64 * 5 * 5 + 64 * 3 * 3)
    assert keys < outcomes[1][1][0] / 3 < 1.5 * keys


@torch.inference_mode()
def half_precision(rank, world):
    """Relative errors against float32 of one evaluation in bfloat16, (whole, split), and the dtype of the latter."""
    degrees, module, given = axes(rank, 1, world), unet.unet_video(), unet.unet_video_inputs()
    exact = module(**given)
    module.to(torch.bfloat16)
    module.dtype = torch.bfloat16
    given = {name: x.bfloat16() if name in ("x", "context", "y") else x for name, x in given.items()}
    sharding = sharding_of(module, degrees)
    whole, split = evaluate_whole(sharding, **given), evaluate_split(sharding, slots(given), **given)
    return difference(whole, exact), difference(split, exact), split.dtype


def test_half_precision_loses_no_more_than_on_one_device(tmp_path):
    for whole, split, dtype in launch(half_precision, 2, tmp_path):
        assert dtype == torch.bfloat16
        assert LIMIT < split < 1.2 * whole


@torch.inference_mode()
def displaced(rank, world):
    """Relative errors of the calls of a run whose input changes little by little; those of an exact call behind it."""
    degrees, module, given = axes(rank, 1, world), unet.unet_xl(), unet.unet_xl_inputs(height=22)
    change = given["x"].flip(0, 2)
    calls = [given | {"x": given["x"] * (1 - 0.02 * step) + 0.1 * step * change} for step in range(6)]
    wholes = [module(**call) for call in calls]
    sharding = sharding_of(module, degrees, "displaced")
    with sharding.attention, sharding:
        outs = [evaluate_split(sharding, slots(call), **call) for call in calls]
    changed = difference(wholes[-2], wholes[-1])
    without_keys = difference(evaluate_split(without(module, degrees, "keys"), slots(given), **given), wholes[0])
    again = difference(evaluate_split(sharding_of(module, degrees), slots(given), **given), wholes[0])
    return [difference(out, whole) for out, whole in zip(outs, wholes)], changed, without_keys, again


@pytest.mark.parametrize("world", (2, 3))
def test_displaced_keys_are_near_and_leave_nothing_behind(tmp_path, world):
    for errors, changed, without_keys, again in launch(displaced, world, tmp_path):
        assert max(errors[:2]) < LIMIT < min(errors[2:])
        assert max(errors) < changed / 5
        assert max(errors) < without_keys / 5
        assert again < LIMIT
