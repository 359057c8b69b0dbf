"""The shared store of tensors: written once, mapped, cleaned, and exact for every dtype."""

from __future__ import annotations

import pytest
import torch
from compact_parallel.runtime.comfy.shipping.store import content_hash, get, keep_only, put

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_bit_for_bit(tmp_path, dtype):
    tensor = torch.randint(0, 2, (3, 5, 7)).to(dtype)
    back = get(tmp_path, put(tmp_path, tensor))
    assert back.dtype == dtype and back.shape == tensor.shape
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("tensor", (torch.randn(4, 6).t(), torch.randn(8)[::2], torch.tensor(3.0), torch.empty(0, 3)))
def test_views_scalars_and_empty_tensors_travel(tmp_path, tensor):
    assert torch.equal(get(tmp_path, put(tmp_path, tensor)), tensor)


def test_the_same_content_is_one_file_and_other_content_another(tmp_path):
    with torch.inference_mode():
        tensor = torch.randn(10)
        key = put(tmp_path, tensor)
        assert put(tmp_path, tensor.clone()) == key
        tensor[0] += 1
        assert put(tmp_path, tensor) != key
    assert len(list(tmp_path.iterdir())) == 2


def test_shape_and_dtype_are_content():
    zeros = torch.zeros(8)
    keys = {content_hash(zeros), content_hash(zeros.view(2, 4)), content_hash(torch.zeros(8, dtype=torch.int32))}
    assert len(keys) == 3


def stored(directory) -> set[str]:
    return {path.stem for path in directory.glob("*.safetensors")}


def test_what_is_not_kept_is_deleted(tmp_path):
    kept, gone = put(tmp_path, torch.ones(3)), put(tmp_path, torch.zeros(3))
    mapped = get(tmp_path, gone)
    keep_only(tmp_path, {kept})
    assert stored(tmp_path) == {kept}
    assert torch.equal(mapped, torch.zeros(3))  # who maps it keeps it
    with pytest.raises(OSError, match=f"{gone}.*was removed or cut short"):
        get(tmp_path, gone)


def test_weights_of_two_models_in_turn_stay_and_those_of_a_third_take_the_place_of_the_older(tmp_path):
    def job(number: int) -> tuple[str, str]:
        weights, noise = put(tmp_path, torch.full((3,), float(number))), put(tmp_path, torch.randn(4))
        keep_only(tmp_path, {noise}, {weights})
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

    monkeypatch.setattr("compact_parallel.runtime.comfy.shipping.store.content_hash", counting)
    return sizes


WRITES = {
    "in place": lambda tensor: tensor.mul_(2),
    "through data": lambda tensor: tensor.data.add_(1),
    "copied over": lambda tensor: tensor.copy_(torch.randn(tensor.shape)),
    "the last value": lambda tensor: tensor[-1].fill_(9),
}


@pytest.mark.parametrize("inference", (False, True), ids=("versioned", "inference"))
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_large_tensor_is_hashed_once_and_again_when_it_was_written_to(tmp_path, monkeypatch, write, inference):
    sizes = counted(monkeypatch)
    with torch.inference_mode(inference):
        tensor = torch.randn(200_000)
        key = put(tmp_path, tensor)
        assert put(tmp_path, torch.nn.Parameter(tensor, requires_grad=False)) == key
        assert put(tmp_path, tensor.view(-1)) == key
        assert sizes == [200_000]
        write(tensor)
        changed = put(tmp_path, tensor)
    assert changed != key and len(sizes) == 2
    assert torch.equal(get(tmp_path, changed), tensor)


def test_new_memory_at_an_old_address_is_not_taken_for_what_was_there(tmp_path):
    keys = set()
    for number in range(20):
        tensor = torch.zeros(100_000)
        tensor[1000 + number] = 1.0  # which the sample of its bytes may miss
        keys.add(put(tmp_path, tensor))
        del tensor
    assert len(keys) == 20


def test_writing_to_a_mapped_tensor_changes_no_other_reader(tmp_path):
    key = put(tmp_path, torch.ones(1000))
    get(tmp_path, key).add_(1)
    assert torch.equal(get(tmp_path, key), torch.ones(1000))


def test_a_disk_that_takes_no_more_is_named_and_no_half_file_stays(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # like a full disk: writing more fails
    try:
        with pytest.raises(OSError, match=r"^A tensor of 4 KB .* cannot be written to .* set TMPDIR") as caught:
            put(tmp_path, torch.ones(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_removed_folder_is_not_taken_for_a_full_disk(tmp_path):
    folder = tmp_path / "removed"
    for write in (lambda: put(folder, torch.ones(1000)), lambda: keep_only(folder, set(), {"a"})):
        with pytest.raises(OSError, match=r"^The folder .*removed, .* was removed .* Run it again") as caught:
            write()
        assert "space" not in str(caught.value)
    with pytest.raises(OSError, match=r"^The folder .*removed, .* was removed .* Run it again"):
        get(folder, "a")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_written_again(tmp_path, keep):
    tensor = torch.randn(1000)
    key = put(tmp_path, tensor)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(OSError, match="was removed or cut short"):
        get(tmp_path, key)
    assert put(tmp_path, tensor) == key
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", [None, "", '[["', "[]", "{}", "7"])
def test_a_listing_that_is_lost_or_broken_costs_nothing_but_time(tmp_path, text):
    keep_only(tmp_path, set(), {put(tmp_path, torch.ones(3))})
    listing = tmp_path / "models.json"
    if text is None:
        listing.unlink()
    else:
        listing.write_text(text)
    second = put(tmp_path, torch.zeros(3))
    keep_only(tmp_path, set(), {second})
    assert stored(tmp_path) == {second}
    third = put(tmp_path, torch.randn(3))
    keep_only(tmp_path, set(), {third})
    assert stored(tmp_path) == {second, third}
