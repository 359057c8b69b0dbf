"""What of Stable Cascade is not split over ranks: a sentence says so, where the picture would be another."""

import torch
from compact_parallel.runtime.attention.sequence_attention import SequenceAttention
from compact_parallel.runtime.compression.wire import RawWire
from compact_parallel.runtime.report.ledger import Ledger
from compact_parallel.runtime.sharding.batch_entries import batch_slots
from compact_parallel.runtime.sharding.parallelize import split_over_ranks
from compact_parallel.runtime.sharding.plan import Unsupported
from compact_parallel.runtime.sharding.rows.row_effects import lowest_rows
from distributed import launch
from evaluating import evaluate_split
from sequence_parts import axes
from tiny_diffusion import cascade, needs_comfyui

pytestmark = needs_comfyui
EXPECTED = {
    "resized": "a module of the class torch.nn.modules.upsampling.Upsample",
    "text alone": "transformers that attend to the text alone",
}


@torch.inference_mode()
def sentences(rank, world):
    """{what: the sentence with which a forward is refused}."""
    attention = SequenceAttention(*axes(rank, 1, world), "all_gather", RawWire(), Ledger())
    tried = {
        "resized": (cascade.stage_c(switch_level=[True]), cascade.stage_c_inputs()),
        "text alone": (cascade.stage_c(self_attn=False), cascade.stage_c_inputs()),
    }
    found = {}
    for what, (module, given) in tried.items():
        try:
            slots = batch_slots({"uuids": ["first", "second"]}, 2)
            evaluate_split(split_over_ranks(module, attention), slots, **given)
        except Unsupported as refusal:
            found[what] = str(refusal)
    return found


def test_what_is_refused(tmp_path):
    for found in launch(sentences, 2, tmp_path):
        assert found.keys() == EXPECTED.keys()
        for what, sentence in found.items():
            assert sentence.startswith(f"Stable Cascade cannot be split over ranks with {EXPECTED[what]}"), sentence


def test_rows_at_the_lowest_resolution_are_counted_behind_the_embedding():
    assert [lowest_rows(cascade.stage_b(), height) for height in (256, 80, 48, 40)] == [16, 5, 3, 1]
    assert lowest_rows(cascade.stage_c(), 24) == 24
