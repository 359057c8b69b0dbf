"""Compression on the trained tiny model, at the demo's size: how far the picture is from the serial one."""

from __future__ import annotations

import functools
import sys

import cloudpickle
import tiny_picture
import torch
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.config import CompressionConfig
from compact_parallel.runtime.report.metrics import psnr
from sampling import TOLERANCE, parallel, relative_error, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SEED = 1


@functools.cache
def serial():
    """The stock latent."""
    return tiny_picture.sample(tiny_picture.model(), SEED)


def compressed(**choices):
    """The MODEL on two workers that share the tokens."""
    compression = CompressionConfig(**{"mode": "codec", **choices})
    return parallel(tiny_picture.model(), 2, compression, ring_degree=2)


@functools.cache
def decibels(**choices) -> float:
    """PSNR of the decoded picture against the serial one."""
    samples = tiny_picture.sample(compressed(**choices), SEED)
    return psnr(tiny_picture.picture(samples), tiny_picture.picture(serial()))


def test_exact_is_exact():
    samples = tiny_picture.sample(compressed(mode="off"), SEED)
    assert relative_error(samples, serial()) < TOLERANCE


def test_two_bits_keep_the_picture_and_send_a_fraction():
    assert decibels(codec="2bit") >= 40
    ran = report()
    assert ran["effective_ratio"] > 4
    assert ran["max_relative_error"] < 0.5


def test_without_residuals_two_bits_are_much_worse():
    assert decibels(codec="2bit", predictor="none") <= decibels(codec="2bit") - 6


def test_without_error_feedback_two_bits_are_worse():
    assert decibels(codec="2bit", error_feedback=False) < decibels(codec="2bit") - 3


def test_more_bits_are_better():
    assert decibels(codec="1bit") < decibels(codec="2bit") < decibels(codec="int8")


def corrupt_bases_on_rank_1(executor, *args, **kwargs):
    """OUTER_SAMPLE wrapper, in a worker: every base that rank 1 keeps of rank 0's tensors is a little off."""
    from unittest import mock

    from compact_parallel.runtime.compression.stream import Stream

    decoded = Stream.decoded

    def decoded_and_corrupt(stream, *args):
        decoded(stream, *args)
        stream.bases = tuple(
            base if base.small else base._replace(data=base.data + 0.3 * base.data.std()) for base in stream.bases
        )

    if torch.distributed.get_rank() == 1:
        with mock.patch.object(Stream, "decoded", decoded_and_corrupt):
            return executor(*args, **kwargs)
    return executor(*args, **kwargs)


def test_a_corrupted_base_ruins_the_picture():
    patcher = compressed(codec="2bit")
    patcher.add_wrapper(WrappersMP.OUTER_SAMPLE, corrupt_bases_on_rank_1)
    samples = tiny_picture.sample(patcher, SEED)
    assert psnr(tiny_picture.picture(samples), tiny_picture.picture(serial())) < 40
