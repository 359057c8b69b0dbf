"""What a pipeline's folder holds, checked before anything is loaded; no code, and no pickle, of the folder is touched.

The folder has the layout of diffusers: model_index.json names the class of the pipeline and of each component, and each
component has a folder of its own name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ConfigError
from .component_classes import component_class, kind, loads_as, mended, pipeline_class
from .packages import require_diffusers
from .weight_files import WeightFiles, find_weights, read_json

INDEX = "model_index.json"


@dataclass(frozen=True)
class FolderFacts:
    """A folder that may be loaded.

    pipeline: the name of the class in diffusers. components: {name: (library, class)}, what is loaded, without those
    that the folder leaves out; the class may differ from what is written there (component_classes.MENDED). weights: the
    files of the components that have any.
    """

    path: Path
    pipeline: str
    components: dict[str, tuple[str, str]]
    weights: dict[str, WeightFiles]

    @property
    def nbytes(self) -> int:
        """The size of all weights as they are stored, in bytes."""
        return sum(weights.nbytes for weights in self.weights.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file with weights."""
        return tuple(file for weights in self.weights.values() for file in weights.files)


def inspect_folder(path: Path) -> FolderFacts:
    """What is in the folder. Raises ConfigError, which names what is wrong with it and what to do."""
    require_diffusers()
    index = path / INDEX
    if not path.is_dir():
        raise ConfigError(f"folder is {str(path)!r}, which is not a folder; choose one that holds a {INDEX}.")
    if not index.is_file():
        raise ConfigError(
            f"folder is {str(path)!r}, which has no {INDEX}; choose one in the layout of diffusers, as "
            "save_pretrained writes it."
        )
    content = read_json(index)
    pipeline = pipeline_class(content.get("_class_name"), index)
    parameters, required = _parameters(pipeline)
    entries = {name: entry for name, entry in content.items() if isinstance(entry, list) and not name.startswith("_")}
    present = {name: entry for name, entry in entries.items() if entry != [None, None]}
    if unknown := sorted(set(present) - parameters):
        raise ConfigError(
            f"folder: {index} has {', '.join(unknown)}, which {pipeline.__name__} does not take; choose another "
            "folder, or install a newer diffusers."
        )
    if missing := sorted(required - set(present)):
        raise ConfigError(
            f"folder: {index} has no {', '.join(missing)}, which {pipeline.__name__} needs; fetch the whole pipeline."
        )
    classes = {name: component_class(pipeline, name, entry, index) for name, entry in present.items()}
    weights = {}
    for name, found in classes.items():
        _check_component(path / name, entries[name][0], found)
        if kind(found) == "model":
            weights[name] = find_weights(path / name, loads_as(found))
    components = {name: (library, mended(pipeline, name, found)) for name, (library, found) in present.items()}
    return FolderFacts(path, pipeline.__name__, components, weights)


def _parameters(pipeline: Any) -> tuple[set[str], set[str]]:
    """The components that a pipeline takes, and those of them that it needs."""
    parameters = list(inspect.signature(pipeline.__init__).parameters.values())[1:]
    needed = {each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD}
    return {each.name for each in parameters}, needed - set(pipeline._optional_components)


def _check_component(folder: Path, library: str, found: type) -> None:
    """Raises ConfigError if a component has no folder, or if loading it would run code or need another model."""
    if not folder.is_dir():
        raise ConfigError(f"folder: {folder} is missing; fetch the pipeline again, with all its folders.")
    if (folder / f"{library}.py").exists():
        raise ConfigError(
            f"folder: {folder} has code of its own in {library}.py, which is not run; choose another folder."
        )
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"folder: {folder} is an adapter of another model (adapter_config.json); merge it into that model, save "
            "it with save_pretrained, and choose what was saved."
        )
    if kind(found) == "scheduler":
        read_json(folder / "scheduler_config.json")
    if kind(found) != "model":
        return
    config = read_json(folder / "config.json")
    for key, value in _settings(config):
        if key == "quantization_config" and value is not None:
            raise ConfigError(
                f"folder: {folder} is quantised (quantization_config), which is not supported; choose the folder with "
                "the weights as float16 or bfloat16."
            )
        if key.endswith("attn_implementation") and "/" in str(value):
            raise ConfigError(
                f"folder: {folder / 'config.json'} asks for the attention kernels {value!r} of a website; take the "
                f"line {key} out."
            )


def _settings(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a JSON object with its value, those of objects inside it as well."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from _settings(value)
