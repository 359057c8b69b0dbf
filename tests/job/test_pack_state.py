"""What a pack's modules remember, as it is found in one process and adopted in another."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from compact_parallel.runtime.comfy.shipping.custom_nodes import Packs, adopt
from compact_parallel.runtime.comfy.shipping.import_finders import PathModules

PACK = """
import threading
from types import SimpleNamespace

OPTIONS = {"scale": 1.0, "names": ["a"], "hook": print, "inner": {"x": 1, "lock": threading.Lock()}}
NUMBER, LISTED, CHOICES = 1, [1], {"a", "b"}
NAMESPACE = SimpleNamespace(on=False, lock=threading.Lock())
LOCK = threading.Lock()

class Kept:
    level = 1
"""


@pytest.fixture
def pack(tmp_path):
    """A pack's module, and a function that loads it anew, as another process does."""
    folder = tmp_path / "remembering.pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(PACK)
    name = str(folder).replace(".", "_x_")

    def load():
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    del sys.modules[name]


def test_plain_data_is_adopted_and_the_rest_is_as_the_import_made_it(pack):
    here = pack()
    here.OPTIONS.update(scale=2.0, hook=len, new=torch.ones(2))
    here.OPTIONS["inner"]["x"] = 5
    here.NUMBER, here.LISTED, here.CHOICES = 7, [1, 2], {"c"}
    here.NAMESPACE.on = True
    states = Packs().states({here.__name__})
    there = pack()
    lock, options = there.LOCK, there.OPTIONS
    adopt(states, PathModules())
    assert there.OPTIONS is options and there.OPTIONS["scale"] == 2.0 and there.OPTIONS["hook"] is print
    assert torch.equal(there.OPTIONS["new"], torch.ones(2)) and there.OPTIONS["inner"]["x"] == 5
    assert there.NUMBER == 7 and there.LISTED == [1, 2] and sorted(there.CHOICES) == ["c"]
    assert there.NAMESPACE.on and there.LOCK is lock and there.Kept is not here.Kept


def test_data_that_holds_itself_is_left_alone(pack):
    here = pack()
    here.LISTED.append(here.LISTED)
    here.OPTIONS["self"] = here.OPTIONS
    state = Packs().states({here.__name__})[here.__name__]
    assert "LISTED" not in state and state["OPTIONS"]["scale"] == 1.0


def test_only_the_packs_that_are_asked_for(pack):
    here = pack()
    assert set(Packs().states(set())) == set()
    assert set(Packs().states({here.__name__})) == {here.__name__}
    assert Packs().name_of(here.__name__) == "remembering.pack"
    assert Packs().name_of(Packs().root_of("threading")) is None
    assert isinstance(here.LOCK, type(threading.Lock())) and isinstance(here.NAMESPACE, SimpleNamespace)


def test_objects_that_know_each_other_travel_once_and_things_named_by_objects_stay(pack):
    here = pack()
    here.REGISTRY = registry = {}
    for number in range(60):
        registry[number] = SimpleNamespace(registry=registry, number=number, lock=threading.Lock())
    here.BY_OBJECT = {threading.Lock(): 1, "plain": 2, "lock": threading.Lock()}
    states = Packs().states({here.__name__})[here.__name__]
    assert states["BY_OBJECT"] == {"plain": 2}
    assert [entry["number"] for entry in states["REGISTRY"].values()] == list(range(60))
    assert len(pickle.dumps(states)) < 20_000
