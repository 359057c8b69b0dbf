"""What changes in the copy of a job is found there and made again in the original, whatever kind of object it is."""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import OrderedDict, defaultdict, deque

import cloudpickle
import numpy as np
import pytest
import torch
from compact_parallel.runtime.comfy.shipping import return_trip
from compact_parallel.runtime.comfy.shipping.facets import CannotReturn
from compact_parallel.runtime.comfy.shipping.import_finders import PathModules
from compact_parallel.runtime.comfy.shipping.pickling import JobPickler, JobUnpickler, Local, ShippingError
from compact_parallel.runtime.comfy.shipping.return_trip import make_changes, write_changes
from compact_parallel.runtime.comfy.shipping.state_changes import Watch
from compact_parallel.runtime.comfy.shipping.state_digests import digests_of, disagreements
from compact_parallel.runtime.pool.local.folder_store import FolderStore
from compact_parallel.runtime.pool.tensor_hash import GLANCE_BYTES
from sampling import model

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Thing:
    """Something of a pack's."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


class Slotted:
    """Without a dict of attributes."""

    __slots__ = ("bank", "level")


class Trip:
    """A value's way to a worker and back."""

    def __init__(self, store, value) -> None:
        self.store = store
        guider = Thing()
        pickler = JobPickler(store)
        pickler.patcher_number(model("flux"))
        pickler.write(value, "It")
        self.here = pickler.end(guider, [])
        unpickler = JobUnpickler(pickler.stream(), [model("flux")], store, torch.device("cpu"), PathModules())
        self.there = unpickler.read()
        self.counterparts = unpickler.end(Thing(), [])
        self.watch = Watch(self.counterparts)

    def back(self) -> int:
        """Returns how many objects had changed."""
        changes = self.watch.changes()
        make_changes(write_changes(changes, self.counterparts, self.store), self.here, self.store, {})
        return len(changes)


@pytest.fixture
def trip(tmp_path):
    """Sends a value to a worker."""
    return lambda value: Trip(FolderStore(tmp_path), value)


def counter():
    """Two functions that share a variable."""
    count = 0

    def add():
        nonlocal count
        count += 1

    def value():
        return count

    return add, value


def test_nothing_returns_where_nothing_changed(trip):
    value = {"list": [1, (2.0, float("nan"))], "thing": Thing(x=torch.ones(3)), "functions": counter()}
    assert trip(value).back() == 0


def test_containers_of_every_kind(trip):
    value = {
        "list": [1, 2], "dict": {"a": 1, "b": 2}, "ordered": OrderedDict(a=1, b=2), "set": {1, 2},
        "bytes": bytearray(2), "deque": deque([1], maxlen=2), "default": defaultdict(list, a=[1]), "unchanged": [0],
    }  # fmt: skip
    held = dict(value)
    trip = trip(value)
    there = trip.there
    there["list"][:] = [3, "x"]
    del there["dict"]["a"]
    there["dict"] |= {"c": 3}
    there["ordered"].move_to_end("a")
    there["set"] ^= {2, 3}
    there["bytes"][0] = 7
    there["deque"].extend([2, 3])
    there["default"]["b"].append(5)
    there["new"] = {"fresh": [1]}
    assert trip.back() == 8
    assert value == {
        "list": [3, "x"], "dict": {"b": 2, "c": 3}, "ordered": OrderedDict(b=2, a=1), "set": {1, 3},
        "bytes": bytearray([7, 0]), "deque": deque([2, 3], maxlen=2), "default": {"a": [1], "b": [5]},
        "unchanged": [0], "new": {"fresh": [1]},
    }  # fmt: skip
    assert list(value["ordered"]) == ["b", "a"] and value["default"]["c"] == []
    assert all(value[name] is thing for name, thing in held.items())


def test_attributes_slots_variables_and_what_functions_have(trip):
    add, value = counter()
    slotted = Slotted()
    slotted.bank = []

    def with_default(bank=[1]):  # noqa: B006 - as packs write it
        return bank

    thing = Thing(level=1, gone=True)
    there = trip((add, value, slotted, with_default, thing))
    their_add, _, their_slotted, their_function, their_thing = there.there
    their_add()
    their_add.calls = 1
    their_slotted.bank.append(1)
    their_slotted.level = 2
    their_function().append(2)
    del their_thing.gone
    their_thing.level = their_thing
    there.back()
    assert value() == 1 and add.calls == 1
    assert slotted.bank == [1] and slotted.level == 2
    assert with_default() == [1, 2]
    assert vars(thing) == {"level": thing}


def test_tensors_arrays_and_random_generators(trip):
    small, large = torch.zeros(3), torch.zeros(GLANCE_BYTES)
    array, generator, python, numpy = np.zeros(3), torch.Generator(), random.Random(1), np.random.default_rng(1)
    trip = trip([small, large, array, generator, python, numpy, torch.zeros(2)])
    theirs = trip.there
    with torch.inference_mode():
        theirs[0][1] = 2
        theirs[1][12345] = 3  # which no sample of its bytes would show
    theirs[2][0] = 4
    expected = [torch.rand(1, generator=theirs[3]), theirs[4].random(), theirs[5].random()]
    assert trip.back() == 6
    assert small.tolist() == [0, 2, 0] and large[12345] == 3 and array[0] == 4
    theirs = [torch.rand(1, generator=theirs[3]), theirs[4].random(), theirs[5].random()]
    assert [torch.rand(1, generator=generator), python.random(), numpy.random()] == theirs != expected


def test_what_two_hold_stays_one_and_what_is_new_is_one_too(trip):
    bank = []
    first, second = Thing(bank=bank), Thing(bank=bank)
    trip = trip([first, second])
    theirs, others = trip.there
    theirs.bank.append(Thing(parent=theirs, kept=torch.ones(2)))
    theirs.new = others.new = [torch.ones(3)]
    trip.back()
    assert first.bank is second.bank is bank and type(bank[0]) is Thing and bank[0].parent is first
    assert first.new is second.new and first.new[0].tolist() == [1, 1, 1]


def test_models_their_parts_and_what_is_the_parents_own_are_named(trip):
    patcher, local = model("flux"), Local()
    thing = Thing(patcher=patcher, local=local)
    trip = trip(thing)
    trip.there.seen = [trip.there.patcher.model.diffusion_model.img_in, trip.there.local, trip.there.patcher]
    trip.back()
    assert [id(x) for x in thing.seen] == [id(patcher.model.diffusion_model.img_in), id(local), id(patcher)]


def test_a_tensor_that_was_only_moved_is_no_change(trip):
    thing = Thing(weights=(torch.ones(3), None))
    trip = trip(thing)
    trip.there.weights = (trip.there.weights[0].to(torch.float64), None)
    assert trip.back() == 0


def test_what_cannot_return_is_named_and_nothing_is_changed(trip):
    thing = Thing(bank=[], other=[])
    trip = trip(thing)
    trip.there.other.append(1)
    trip.there.bank.append(threading.Lock())
    with pytest.raises(ShippingError, match=r"`bank` of Thing was changed by this run.*lock.*run on one device"):
        trip.back()
    assert thing.other == []


def test_an_iterator_can_be_seen_but_not_set(trip):
    trip = trip(Thing(count=itertools.count()))
    next(trip.there.count)
    with pytest.raises(CannotReturn, match=r"`count` of Thing .*inside of a count"):
        trip.back()


def test_a_tensor_that_was_given_another_shape_or_dtype_is_given_it_here(trip):
    thing = Thing(kept=torch.zeros(2), layer=torch.nn.Linear(1, 1).double())
    held = thing.kept, thing.layer.weight
    trip = trip(thing)
    trip.there.kept.set_(torch.ones(3))
    trip.there.layer.to(torch.float32).weight.data.fill_(2)
    trip.back()
    assert thing.kept is held[0] and thing.layer.weight is held[1]
    assert thing.kept.tolist() == [1, 1, 1]
    assert thing.layer.weight.dtype == torch.float32 and thing.layer.weight.item() == 2


def test_an_array_of_another_shape_cannot_return(trip):
    trip = trip(Thing(kept=np.zeros((2, 1))))
    trip.there.kept.shape = (2,)
    with pytest.raises(CannotReturn, match=r"`kept` of Thing .*had the shape.*\(2, 1\).*now.*\(2,\)"):
        trip.back()


def test_there_is_a_limit_to_what_returns(trip, monkeypatch):
    monkeypatch.setattr(return_trip, "LARGEST_BYTES", 1000)
    thing = Thing(bank=[])
    trip = trip(thing)
    trip.there.bank.append(torch.zeros(200))
    trip.back()
    assert len(thing.bank) == 1
    trip.there.bank.append(torch.zeros(100))
    with pytest.raises(ShippingError, match=r"`bank` of Thing .*larger than"):
        trip.back()


def told(trip, change):
    """What a worker tells of `change`, a function that is given the thing there."""
    change(trip.there)
    return digests_of(trip.watch.changes(), trip.counterparts)


def test_of_a_model_that_is_kept_only_which_it_is_is_told(trip):
    def keep(thing):
        thing.kept = [thing.patcher, thing.patcher.model, thing.patcher.model.diffusion_model.img_in]

    (digest,) = told(trip(Thing(patcher=model("flux"))), keep)
    assert digest.numbers == []


def test_workers_agree_on_what_differs_in_its_last_bits_and_on_nothing_else(tmp_path):
    def digests(change):
        return told(Trip(FolderStore(tmp_path), Thing(bank=[], names=set(), count=0)), change)

    kept = torch.randn(50, generator=torch.Generator().manual_seed(1))
    first = digests(lambda thing: thing.bank.append(kept))
    assert first and not disagreements([first, digests(lambda thing: thing.bank.append(kept * (1 + 1e-6)))])
    for other in (
        lambda thing: thing.bank.append(kept * 1.01),
        lambda thing: thing.bank.append(kept.double()),
        lambda thing: thing.bank.extend([kept, kept]),
        lambda thing: setattr(thing, "count", 1),
        lambda thing: None,
    ):
        (digest, *_) = disagreements([first, digests(other)]).values()
        assert digest.name in ("`bank` of Thing", "Thing")
    many = {f"name {number}" for number in range(20)}
    orders = (sorted(many), sorted(many, reverse=True))
    named = [digests(lambda thing, order=order: thing.names.update(order)) for order in orders]
    assert named[0] and not disagreements(named)
