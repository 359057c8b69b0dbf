"""Messages are plain data: every kind survives the wire, and nothing that is not plain data gets onto or off it."""

import io
import os
import pickle

import pytest
import torch
from compact_parallel.runtime.pool import messages
from compact_parallel.runtime.pool.messages import (
    Abandon,
    Cancel,
    Done,
    Failed,
    Park,
    Parked,
    Ping,
    Pong,
    Predicted,
    Prepare,
    Prepared,
    Progress,
    Ready,
    Renew,
    Renewed,
    Run,
    decode,
    encode,
)

ONE_OF_EACH = [
    Ready({"pid": 4, "device_bytes": 1 << 40}, {"bytes_per_second": 1.2e7}),
    Prepare(1, b"\x00job"),
    Prepared(1),
    Run(2),
    Abandon(3),
    Cancel(4),
    Progress(5, 0, 20, b"preview"),
    Predicted(1, 7, b"prediction"),
    Done(6, b"latent", {"calls": [{"sigma": 0.5, "error": None}], "warnings": ["ö \udc80"]}, {"device_bytes": 7}),
    Failed(7, "ValueError", "wrong", "Traceback ...", False, {}),
    Renew("/tmp/rendezvous-7"),
    Renewed(),
    Park(1 << 33),
    Parked(0),
    Ping(),
    Pong(),
]


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_every_kind_survives(message):
    assert decode(encode(message)) == message


def test_no_kind_is_missing_above():
    assert {type(message) for message in ONE_OF_EACH} == set(messages.Message.__args__)


class Evil:
    """Unpickled by pickle itself, this runs a command."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_code_does_not_run_when_a_message_is_decoded(tmp_path):
    trace = tmp_path / "it_ran"
    data = pickle.dumps(("Progress", {"job": 1, "step": 0, "total": 1, "payload": Evil(trace)}))
    with pytest.raises(pickle.UnpicklingError, match=r"plain data only, not posix\.system"):
        decode(data)
    assert not trace.exists()
    pickle.load(io.BytesIO(data))
    assert trace.exists(), "the data was harmless, so the test proves nothing"


@pytest.mark.parametrize("value", [Run(1), torch.zeros(1), torch.Size([1]), len, ValueError, {"deep": [torch.float32]}])
def test_what_would_not_be_decoded_is_not_encoded(value):
    with pytest.raises(pickle.PicklingError, match="plain data only"):
        encode(Done(1, b"", {"value": value}, {}))
    with pytest.raises(pickle.UnpicklingError, match="plain data only"):
        decode(pickle.dumps(("Ready", {"about": {"value": value}})))
