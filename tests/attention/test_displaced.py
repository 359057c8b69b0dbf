"""Displaced attention in real processes: the others' K and V are those of the call before, worked out by hand."""

from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from compact_parallel.runtime.attention.layout import TokenLayout
from compact_parallel.runtime.attention.messenger import Delivery
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.residual_wire import make_wire
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch
from sequence_parts import axes, relative_error, tag_of

HEADS, DIM, LENGTHS, CALLS = 4, 16, (5, 14), 7
SKIPPED = {"first": (), "second": (3, 4)}
"""Calls in which a layer does not run."""
INT8 = CompressionConfig(mode="codec", codec="int8")


def attention_pytorch(q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False):
    q, k, v = (x.unflatten(2, (-1, DIM)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def whole(layer, call):
    """q, k, v of all tokens (3, B, N, C), which drift from call to call."""
    generator = torch.Generator().manual_seed(len(layer))
    start, trend = torch.randn(2, 3, 2, sum(LENGTHS), HEADS * DIM, generator=generator)
    return start + 0.3 * call * trend


def by_hand(layer, call, layout, ring, group, late=1):
    """Attention to this rank's K and V and to others' of, from the layer's third run on, `late` runs ago."""
    runs = [c for c in range(CALLS) if c not in SKIPPED[layer]]
    run = runs.index(call)
    now, mixed = whole(layer, call), whole(layer, runs[run - late] if run >= 2 else call)
    for span in layout.ranges(ring.index, group):
        mixed[:, :, slice(*span)] = now[:, :, slice(*span)]
    return attention_pytorch(now[0], *mixed[1:], HEADS)


def run_calls(attention, layout, calls=range(CALLS)):
    """{(layer, call): this rank's output}."""
    outputs = {}
    for call in calls:
        attention.ledger.begin_call(call, 0.0)
        for layer, skipped in SKIPPED.items():
            if call not in skipped:
                local = [layout.split_joint(x, 1, attention.shard_index) for x in whole(layer, call)]
                outputs[layer, call] = attention(attention_pytorch, *local, HEADS, layout=layout, tag=tag_of(layer))
    return outputs


def run_cases(rank, world, degrees):
    """{(wire, overlap): ({late: {(layer, call): error}}, exchanges on their way before and after the end)}."""
    ulysses, ring = axes(rank, *degrees)
    layout = TokenLayout(LENGTHS, world)
    found = {}
    for name, overlap in (("raw", True), ("raw", False), ("int8", True)):
        ledger = Ledger()
        wire = RawWire() if name == "raw" else make_wire(INT8, ledger, CALLS)
        with SequenceAttention(ulysses, ring, "displaced", wire, ledger, overlap, 1) as attention:
            outputs = run_calls(attention, layout)
            before = len(attention.messenger._under_way)
        errors = {late: {} for late in (0, 1, 2)}
        for late, (key, out) in ((late, item) for late in errors for item in outputs.items()):
            expected = by_hand(*key, layout, ring, degrees[0], late)
            errors[late][key] = relative_error(out, layout.split_joint(expected, 1, attention.shard_index))
        found[name, overlap] = errors, before, len(attention.messenger._under_way)
    return found


@pytest.mark.parametrize("degrees", [(1, 2), (1, 3), (2, 2)], ids=["2 ranks", "3 ranks", "ulysses 2 x 2 ranks"])
def test_the_others_keys_and_values_are_those_of_the_last_run(tmp_path, degrees):
    synchronous = {("first", 0), ("first", 1), ("second", 0), ("second", 1)}
    for found in launch(run_cases, degrees[0] * degrees[1], tmp_path, degrees):
        for (name, overlap), (errors, before, after) in found.items():
            limit = 1e-6 if name == "raw" else 0.03
            assert len(errors[1]) == 2 * CALLS - 2
            assert {key: error for key, error in errors[1].items() if not error < limit} == {}
            for late in (0, 2):  # neither fresh ones nor still older ones
                assert {key for key, error in errors[late].items() if error < 2 * limit} == synchronous
            chunks = 2 if overlap and degrees[0] > 1 else 1
            assert (before, after) == (2 * chunks, 0)


ENTRIES = (2, 2, 2, 2, 1, 1, 1, 2, 1, 2)
"""The batch entries of each call: a sampler may ask for both conditions together, then for one alone."""


def changing_batches(rank, world):
    """{wire: {late: [error of each call]}}, where others' K and V are those of `late` calls with the same batch ago."""
    (ulysses, ring), layout, found = axes(rank, 1, 2), TokenLayout(LENGTHS, 2), {}
    for name in ("raw", "int8"):
        ledger, errors = Ledger(), {late: [] for late in (0, 1)}
        wire = RawWire() if name == "raw" else make_wire(INT8, ledger, len(ENTRIES))
        with SequenceAttention(ulysses, ring, "displaced", wire, ledger) as attention:
            for call, entries in enumerate(ENTRIES):
                now = whole("first", call)[:, :entries]
                local = [layout.split_joint(x, 1, rank) for x in now]
                tag = replace(tag_of("first"), slots=tag_of("first").slots[:entries])
                out = attention(attention_pytorch, *local, HEADS, layout=layout, tag=tag)
                runs = [c for c in range(call + 1) if ENTRIES[c] == entries]
                for late, of_calls in errors.items():
                    mixed = whole("first", runs[-1 - late] if len(runs) > 2 else call)[:, :entries]
                    for span in layout.ranges(rank):
                        mixed[:, :, slice(*span)] = now[:, :, slice(*span)]
                    expected = layout.split_joint(attention_pytorch(now[0], *mixed[1:], HEADS), 1, rank)
                    of_calls.append(relative_error(out, expected))
        found[name] = errors
    return found


def test_batches_that_change_keep_each_their_own_last_call(tmp_path):
    for found in launch(changing_batches, 2, tmp_path):
        for name, errors in found.items():
            limit = 1e-6 if name == "raw" else 0.03
            assert max(errors[1]) < limit
            fresh = [call for call, error in enumerate(errors[0]) if error < 2 * limit]
            assert fresh == [0, 1, 4, 5]  # the first two calls of each batch wait for the others


class Lost(Exception):
    """What a job of these tests fails with."""


def ended_jobs(rank, world):
    """What is left of a job that fails on all ranks, one that does not wait, and one that fails on one rank only."""
    (ulysses, ring), layout = axes(rank, 1, 2), TokenLayout(LENGTHS, 2)

    def attention(ring=ring):
        return SequenceAttention(ulysses, ring, "displaced", RawWire(), Ledger())

    with pytest.raises(Lost), attention() as failing:
        run_calls(failing, layout, range(3))
        raise Lost
    left = len(failing.messenger._under_way)
    with attention() as later:
        next_job = run_calls(later, layout, [5])["first", 5]
    next_job = relative_error(next_job, layout.split_joint(attention_pytorch(*whole("first", 5), HEADS), 1, rank))
    patient, impatient = (third_run(rank, ring, layout, attention(), waits) for waits in (True, False))

    hasty = replace(ring, group=dist.new_group([0, 1], timeout=timedelta(seconds=1)))
    with pytest.raises((Lost, RuntimeError)) as failure, attention(hasty) as alone:
        run_calls(alone, layout, range(2 if rank else 3))
        raise Lost("The job's own failure.")
    return left, next_job, patient, impatient, str(failure.value)


def third_run(rank, ring, layout, attention, waits):
    """The error of rank 0's fourth run, if it `waits` for what rank 1 sent in its third or if rank 1 starts that later.

    Messages of the attention have a group of their own, the barrier goes over another.
    """
    unfinished = []
    with attention:
        run_calls(attention, layout, range(2))
        with mock.patch.object(Delivery, "drop", Delivery.drop):
            if not waits and rank == 1:
                dist.barrier()
            elif not waits:
                Delivery.drop = lambda self: unfinished.append(self) or [first.zero_() for first in self._firsts]
            out = run_calls(attention, layout, [2, 3])["first", 3]
            if not waits and rank == 0:
                dist.barrier()
        for delivery in unfinished:
            delivery.drop()
    return relative_error(out, layout.split_joint(by_hand("first", 3, layout, ring, 1), 1, rank))


def test_nothing_is_left_on_its_way(tmp_path):
    for rank, (left, next_job, patient, impatient, failure) in enumerate(launch(ended_jobs, 2, tmp_path)):
        assert left == 0
        assert next_job < 1e-6
        assert patient < 1e-6
        assert (impatient > 1e-2) == (rank == 0)
        assert failure.startswith("The job's own failure.")
        assert ("What was on its way could not be waited for" in failure) == (rank == 0)
