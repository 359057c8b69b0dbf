"""The shared store of tensors: written once, mapped, cleaned, and exact for every dtype."""

from __future__ import annotations

import json

import pytest
import torch
from compact_parallel.runtime.pool.local.folder_store import FolderStore
from compact_parallel.runtime.pool.store import open_store
from compact_parallel.runtime.pool.tensor_hash import content_hash


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_bit_for_bit(store, dtype):
    tensor = torch.randint(0, 2, (3, 5, 7)).to(dtype)
    back = store.get(store.put(tensor))
    assert back.dtype == dtype and back.shape == tensor.shape
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("tensor", (torch.randn(4, 6).t(), torch.randn(8)[::2], torch.tensor(3.0), torch.empty(0, 3)))
def test_views_scalars_and_empty_tensors_travel(store, tensor):
    assert torch.equal(store.get(store.put(tensor)), tensor)


def test_the_same_content_is_one_file_and_other_content_another(tmp_path, store):
    with torch.inference_mode():
        tensor = torch.randn(10)
        key = store.put(tensor)
        assert store.put(tensor.clone()) == key
        tensor[0] += 1
        assert store.put(tensor) != key
    assert len(list(tmp_path.iterdir())) == 2


def test_a_worker_opens_the_same_store_by_its_address(store):
    key = store.put(torch.arange(5))
    theirs = open_store(json.loads(json.dumps(store.address)))
    assert torch.equal(theirs.get(key), torch.arange(5))
    assert torch.equal(store.get(theirs.put(torch.ones(2))), torch.ones(2))


def test_shape_and_dtype_are_content():
    zeros = torch.zeros(8)
    keys = {content_hash(zeros), content_hash(zeros.view(2, 4)), content_hash(torch.zeros(8, dtype=torch.int32))}
    assert len(keys) == 3


def stored(directory) -> set[str]:
    return {path.stem for path in directory.glob("*.safetensors")}


def test_what_is_not_kept_is_deleted(tmp_path, store):
    kept, gone = store.put(torch.ones(3)), store.put(torch.zeros(3))
    mapped = store.get(gone)
    store.keep_only({kept})
    assert stored(tmp_path) == {kept}
    assert torch.equal(mapped, torch.zeros(3))  # who maps it keeps it
    with pytest.raises(OSError, match=f"{gone}.*was removed or cut short"):
        store.get(gone)


def test_weights_of_two_models_in_turn_stay_and_those_of_a_third_take_the_place_of_the_older(tmp_path, store):
    def job(number: int) -> tuple[str, str]:
        weights, noise = store.put(torch.full((3,), float(number))), store.put(torch.randn(4))
        store.keep_only({noise}, {weights})
        return weights, noise

    for number in (1, 1, 2, 2, 1):
        first, _ = job(number)
    second, noise = job(2)
    assert stored(tmp_path) == {first, second, noise}
    third, noise = job(3)
    assert stored(tmp_path) == {second, third, noise}


def counted(monkeypatch) -> list[int]:
    """The sizes of the tensors that are hashed whole from now on."""
    sizes = []

    def counting(tensor):
        sizes.append(tensor.numel())
        return content_hash(tensor)

    monkeypatch.setattr("compact_parallel.runtime.pool.tensor_hash.content_hash", counting)
    return sizes


WRITES = {
    "in place": lambda tensor: tensor.mul_(2),
    "through data": lambda tensor: tensor.data.add_(1),
    "copied over": lambda tensor: tensor.copy_(torch.randn(tensor.shape)),
    "the last value": lambda tensor: tensor[-1].fill_(9),
}


@pytest.mark.parametrize("inference", (False, True), ids=("versioned", "inference"))
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_large_tensor_is_hashed_once_and_again_when_it_was_written_to(store, monkeypatch, write, inference):
    sizes = counted(monkeypatch)
    with torch.inference_mode(inference):
        tensor = torch.randn(200_000)
        key = store.put(tensor)
        assert store.put(torch.nn.Parameter(tensor, requires_grad=False)) == key
        assert store.put(tensor.view(-1)) == key
        assert sizes == [200_000]
        write(tensor)
        changed = store.put(tensor)
    assert changed != key and len(sizes) == 2
    assert torch.equal(store.get(changed), tensor)


def test_new_memory_at_an_old_address_is_not_taken_for_what_was_there(store):
    keys = set()
    for number in range(20):
        tensor = torch.zeros(100_000)
        tensor[1000 + number] = 1.0  # which the sample of its bytes may miss
        keys.add(store.put(tensor))
        del tensor
    assert len(keys) == 20


def test_writing_to_a_mapped_tensor_changes_no_other_reader(store):
    key = store.put(torch.ones(1000))
    store.get(key).add_(1)
    assert torch.equal(store.get(key), torch.ones(1000))


def test_a_disk_that_takes_no_more_is_named_and_no_half_file_stays(tmp_path, store):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # like a full disk: writing more fails
    try:
        with pytest.raises(OSError, match=r"^A tensor of 4 KB .* cannot be written to .* set TMPDIR") as caught:
            store.put(torch.ones(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_removed_folder_is_not_taken_for_a_full_disk(tmp_path):
    store = FolderStore(tmp_path / "removed")
    for write in (lambda: store.put(torch.ones(1000)), lambda: store.keep_only(set(), {"a"})):
        with pytest.raises(OSError, match=r"^The folder .*removed, .* was removed .* Run it again") as caught:
            write()
        assert "space" not in str(caught.value)
    with pytest.raises(OSError, match=r"^The folder .*removed, .* was removed .* Run it again"):
        store.get("a")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_written_again(tmp_path, store, keep):
    tensor = torch.randn(1000)
    key = store.put(tensor)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(OSError, match="was removed or cut short"):
        store.get(key)
    assert store.put(tensor) == key
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", [None, "", '[["', "[]", "{}", "7"])
def test_a_listing_that_is_lost_or_broken_costs_nothing_but_time(tmp_path, store, text):
    store.keep_only(set(), {store.put(torch.ones(3))})
    listing = tmp_path / "models.json"
    if text is None:
        listing.unlink()
    else:
        listing.write_text(text)
    second = store.put(torch.zeros(3))
    store.keep_only(set(), {second})
    assert stored(tmp_path) == {second}
    third = store.put(torch.randn(3))
    store.keep_only(set(), {third})
    assert stored(tmp_path) == {second, third}
