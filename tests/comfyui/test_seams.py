"""The table of seams: it fits the installed ComfyUI, nothing is left out of it, and each change of one is seen."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest
import torch
from compact_parallel.runtime.comfy import fits
from compact_parallel.runtime.comfy.fits import check
from compact_parallel.runtime.comfy.seam import EARLY, EVERYTHING, NODES, PANEL, Seam
from compact_parallel.runtime.comfy.seams import SEAMS
from compact_parallel.runtime.comfy.shipping.import_finders import UtilsOfComfyUI
from compact_parallel.runtime.comfy.wrappers.controlnets import ATTENTION
from compact_parallel.runtime.host import installed
from seams_subset import SUBSET

ROOT = Path(__file__).resolve().parents[2]
FILES = [*sorted((ROOT / "runtime").rglob("*.py")), *sorted((ROOT / "nodes").glob("*.py")), ROOT / "__init__.py"]
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
COMFYUI |= {"comfyui_version", "nodes", "server"}
FOR_PEOPLE = "comfy_api.latest"  # what nodes are made of, which the table leaves out
LISTED = [(seam.module, name, seam) for seam in SEAMS for name in seam.names.split()]
CALLED = [listed for listed in LISTED if listed[2].takes is not None]
FINDER = UtilsOfComfyUI()


@pytest.fixture(scope="module", autouse=True)
def all_there():
    """All that ComfyUI has imported before it loads custom nodes."""
    sys.meta_path.insert(0, FINDER)
    for seam in SEAMS:
        importlib.import_module(seam.module)
    sys.meta_path.remove(FINDER)


def names(listed) -> str:
    return f"{listed[0]}:{listed[1]}"


def test_the_installed_comfyui_has_every_seam():
    assert [misfit.sentence for misfit in check()] == []


@pytest.mark.alone
def test_looking_takes_no_time():
    check()
    started = time.perf_counter()
    check()
    assert time.perf_counter() - started < 0.3


def test_the_short_subset_is_all_there():
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "seams"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=False)
    assert set(SUBSET) <= set(done.stdout.splitlines()), done.stdout
    assert f"{len(SUBSET)}/" in done.stdout  # and no more


def test_every_seam_says_what_it_is_for():
    assert all(seam.needed_for and seam.behaviour.endswith(".") for seam in SEAMS)
    assert len({listed[:2] for listed in LISTED}) == len(LISTED)


# What the code of the pack touches.


def _touched(tree: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """(module, dotted name in it or "", where) of all that a file has of ComfyUI."""
    known: dict[str, tuple[str, str]] = {}
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in COMFYUI:
                    modules.add(alias.name)
                    known[alias.asname or alias.name.partition(".")[0]] = (alias.name if alias.asname else "", "")
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.partition(".")[0] in COMFYUI:
            for alias in node.names:
                known[alias.asname or alias.name] = (node.module, alias.name)
                yield node.module, alias.name, node
    for node in ast.walk(tree):
        chain, inner = [], node
        while isinstance(inner, ast.Attribute):
            chain.insert(0, inner.attr)
            inner = inner.value
        if not chain or not isinstance(inner, ast.Name) or inner.id not in known:
            continue
        module, name = known[inner.id]
        if not module:
            whole = [inner.id, *chain]
            ends = [end for end in range(1, len(whole) + 1) if ".".join(whole[:end]) in modules]
            if not ends:
                continue  # the beginning of a longer chain, which comes by itself
            module, chain = ".".join(whole[: ends[-1]]), whole[ends[-1] :]
        dotted = ".".join(part for part in (name, *chain) if part)
        yield module, dotted, node


def _covering(module: str, name: str) -> list[Seam]:
    """The seams of the table that are this name, or something of it, or have it."""
    parts = name.split(".")
    prefixes = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return [s for m, n, s in LISTED if m == module and (n in prefixes or n.startswith(f"{name}."))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_table_has_all_that_the_pack_touches(file):
    missing = {
        f"{module}:{name}"
        for module, name, _ in _touched(ast.parse(file.read_text(encoding="utf-8")))
        if name and not name.startswith("__") and module != FOR_PEOPLE and not _covering(module, name)
    }
    assert missing == set()


def test_what_is_touched_is_found():
    """Of what the completeness rests on: an import, an attribute of a module, one of what was imported."""
    code = "import comfy.samplers\nfrom comfy.hooks import A as B\ndef f(): return comfy.samplers.x.y, B.z"
    found = {(module, name) for module, name, _ in _touched(ast.parse(code))}
    assert {("comfy.samplers", "x.y"), ("comfy.hooks", "A"), ("comfy.hooks", "A.z")} <= found
    assert not _covering("comfy.samplers", "x.y") and _covering("comfy.samplers", "CFGGuider")


def test_places_that_are_named_by_words_are_in_the_table():
    assert set(ATTENTION) <= {(module, name) for module, name, _ in LISTED}


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a file is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            continue
        yield node
        yield from _at_import(node.value if isinstance(node, ast.AnnAssign) and node.value else node)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_only_one_capability_needs_is_not_needed_to_begin(file):
    """A name that is gone is to switch off what depends on it, and not to keep a worker from starting."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    at_import = {id(node) for node in _at_import(tree)}
    for module, name, node in _touched(tree):
        seams = _covering(module, name) if id(node) in at_import and name else []
        needed = [seam for seam in seams if {EARLY, EVERYTHING, NODES, PANEL}.intersection(seam.needed_for)]
        assert needed or not seams, f"{module}:{name}"


# Changes of ComfyUI, made to its own objects.


def owner_of(module: str, name: str):
    """What has the last part of a dotted name."""
    owner = importlib.import_module(module)
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    return owner, name.rpartition(".")[2]


def take_away(monkeypatch, module: str, name: str) -> None:
    """Of an attribute that the methods of a class set, they set another one."""
    owner, last = owner_of(module, name)
    if isinstance(owner, enum.EnumMeta):
        others = {member.name: member.value for member in owner if member.name != last}
        monkeypatch.setattr(importlib.import_module(module), owner.__name__, enum.Enum(owner.__name__, others))
    elif last in vars(owner):
        monkeypatch.delattr(owner, last)
    else:
        for function in [f for base in owner.__mro__ for f in vars(base).values() if isinstance(f, FunctionType)]:
            others = tuple("later" if other == last else other for other in function.__code__.co_names)
            monkeypatch.setattr(function, "__code__", function.__code__.replace(co_names=others))
    fits._set_by_methods.cache_clear()


@pytest.fixture
def looked_anew():
    """What was found by looking at changed classes is forgotten."""
    yield
    fits._set_by_methods.cache_clear()


def of_name(listed) -> list:
    """What `check` finds of one name, and that it finds nothing but it, what it has and what else its class has."""
    module, name, _ = listed
    found = check()
    assert all(f"{misfit.name}.".startswith(f"{module}:{name.partition('.')[0]}.") for misfit in found)
    return [misfit for misfit in found if misfit.name == f"{module}:{name}"]


@pytest.mark.parametrize("listed", LISTED, ids=names)
def test_a_name_that_is_gone_is_told(monkeypatch, looked_anew, listed):
    module, name, seam = listed
    with monkeypatch.context() as changed:
        take_away(changed, module, name)
        (misfit,) = of_name(listed)
    assert (misfit.differs, misfit.needed_for) == ("is not there", seam.needed_for)
    assert f"{module}:{name} of {installed()} is not there, without which" in misfit.sentence
    assert all(capability in misfit.sentence for capability in seam.needed_for)
    assert "update ComfyUI-CompactParallel" in misfit.sentence


def test_a_module_that_is_gone_is_told(monkeypatch):
    def without(name, package=None):
        if name == "comfy.hooks":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importlib.__import__(name, fromlist=["x"])

    monkeypatch.setattr(fits.importlib, "import_module", without)
    assert {misfit.name for misfit in check()} == {f"{m}:{n}" for m, n, _ in LISTED if m == "comfy.hooks"}


def with_parameters(monkeypatch, listed, change) -> None:
    """The function has other parameters now: `change` of a list of them."""
    owner, last = owner_of(*listed[:2])
    function = getattr(getattr(owner, last), "__func__", getattr(owner, last))
    signature = inspect.signature(function)
    changed = signature.replace(parameters=change(list(signature.parameters.values())))
    monkeypatch.setattr(function, "__signature__", changed, raising=False)


def given(seam: Seam) -> list[str]:
    return [name for name in seam.takes.replace(",", " ").split() if name != "*"]


@pytest.mark.parametrize("listed", [listed for listed in CALLED if given(listed[2])], ids=names)
def test_a_renamed_parameter_is_told(monkeypatch, listed):
    for name in given(listed[2]):
        with monkeypatch.context() as changed:
            rename = lambda p, name=name: p.replace(name="other") if p.name == name else p  # noqa: E731
            with_parameters(changed, listed, lambda found, rename=rename: [rename(p) for p in found])
            (misfit,) = of_name(listed)
        assert misfit.differs == f"does not take {name}"


@pytest.mark.parametrize("listed", CALLED, ids=names)
def test_one_more_parameter_is_told_where_nobody_would_give_it(monkeypatch, listed):
    for default in (inspect.Parameter.empty, None):
        more = inspect.Parameter("more", inspect.Parameter.KEYWORD_ONLY, default=default)

        def add(found, more=more):
            at_the_end = [p for p in found if p.kind == p.VAR_KEYWORD]
            return [*(p for p in found if p.kind != p.VAR_KEYWORD), more, *at_the_end]

        with monkeypatch.context() as changed:
            with_parameters(changed, listed, add)
            found = of_name(listed)
        told = [misfit.differs for misfit in found]
        assert told == (["also takes more"] if default is inspect.Parameter.empty or listed[2].replaced else [])


def test_another_order_is_told(monkeypatch):
    (listed,) = [one for one in CALLED if one[1] == "get_area_and_mult"]
    with monkeypatch.context() as changed:
        with_parameters(changed, listed, lambda found: [found[1], found[0], *found[2:]])
        (misfit,) = of_name(listed)
    assert misfit.differs == "takes x_in, conds, timestep_in in another order"


def test_what_another_pack_puts_in_the_place_of_a_function_fits(monkeypatch):
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers, "get_area_and_mult", lambda *args: None)
    assert check() == []
    of_comfyui = lambda *args: None  # noqa: E731
    monkeypatch.setattr(comfy.samplers, "get_area_and_mult", FunctionType(of_comfyui.__code__, vars(comfy.samplers)))
    assert [misfit.name for misfit in check()] == ["comfy.samplers:get_area_and_mult"]


@pytest.mark.parametrize(
    "method",
    ["samplers:CFGGuider.__init__", "samplers:CFGGuider.outer_sample", "model_base:BaseModel.__init__",
     "model_patcher:ModelPatcher.__init__", "model_management:LoadedModel.__init__"],
)  # fmt: skip
def test_what_another_pack_puts_around_a_method_fits(monkeypatch, looked_anew, method):
    """The attributes that the method sets are still set by what it calls."""
    module, _, name = method.partition(":")
    owner, last = owner_of(f"comfy.{module}", name)
    original = getattr(owner, last)

    def around(self, *args, **kwargs):
        return original(self, *args, **kwargs)

    fits._set_by_methods.cache_clear()
    monkeypatch.setattr(owner, last, around)
    assert check() == []


def test_a_property_in_the_place_of_a_method_fits(monkeypatch):
    import comfy.model_patcher

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "model_dtype", property(lambda self: torch.float32))
    assert check() == []
