"""The safetensors files of one component of a pipeline's folder, known from their headers; no weight is read.

A file is 8 bytes (the length of the header), the header (JSON: name -> dtype, shape, data_offsets), the data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import ConfigError

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_LONGEST_HEADER = 100_000_000  # what safetensors itself allows
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class WeightFiles:
    """The files that a component is loaded from.

    variant: what the loader must be told to take these, such as "fp16", or None. dtype: the one of most of the bytes,
    "float32", "float16", "bfloat16" or safetensors' own name of another one. nbytes: of all weights.
    """

    files: tuple[Path, ...]
    variant: str | None
    dtype: str
    nbytes: int


def find_weights(folder: Path, library: str) -> WeightFiles:
    """The weights of the component in `folder`, whose class is one of `library` ("diffusers" or "transformers").

    Takes the files without a variant in their name if there are any, else those of the only variant. Raises ConfigError
    if there are none, if a part of them is missing, or if a header cannot be read.
    """
    stem = STEMS[library]
    variant = _variant(folder, stem)
    named = f"{stem}.{variant}" if variant else stem
    single = folder / f"{named}.safetensors"
    index = folder / f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
    # If both are there diffusers reads the parts, transformers the single file.
    sharded = index.is_file() and (library == "diffusers" or not single.is_file())
    files = _parts(index) if sharded else (single,)
    headers = [read_header(file) for file in files]
    sizes: Counter[str] = Counter()
    for header in headers:
        for entry in header.values():
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] += end - begin
    floats = {dtype: size for dtype, size in sizes.items() if "F" in dtype} or dict(sizes) or {"F32": 0}
    commonest = max(floats, key=lambda dtype: floats[dtype])
    return WeightFiles(files, variant, _DTYPES.get(commonest, commonest), sizes.total())


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The entries of a safetensors file by name, without its metadata. Raises ConfigError if it is none, or cut off."""
    broken = f"folder: {file} is not a whole safetensors file; fetch it again."
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(_LONGEST_HEADER, file.stat().st_size - 8):
            raise ConfigError(broken)
        text = stream.read(length)
    try:
        header = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        whole = all(isinstance(entry["dtype"], str) for entry in header.values())
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ConfigError(broken) from error
    if not whole or 8 + length + end != file.stat().st_size:
        raise ConfigError(broken)
    return header


def _variant(folder: Path, stem: str) -> str | None:
    """The variant to load; None stands for the files without one. Raises ConfigError if no file is safetensors."""
    single = re.compile(rf"{stem}(?:\.([\w-]+))?\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index(?:\.([\w-]+))?\.json")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = [match[1] for name in names if (match := single.fullmatch(name) or index.fullmatch(name))]
    variants = {variant for variant in found if variant is None or not re.search(r"-\d{5}-of-\d{5}$", variant)}
    if None in variants:
        return None
    if len(variants) == 1:
        return variants.pop()
    if variants:
        raise ConfigError(
            f"folder: {folder} has its weights as {', '.join(sorted(map(str, variants)))} and none without a name for "
            f"it; keep one of them."
        )
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        raise ConfigError(
            f"folder: {folder} has its weights as {pickles[0]}, a file that can run code when it is loaded; fetch the "
            "pipeline with its safetensors files, or save it again with save_pretrained."
        )
    raise ConfigError(f"folder: {folder} has no {stem}.safetensors; fetch the pipeline again, with all its weights.")


def _parts(index: Path) -> tuple[Path, ...]:
    """The files that an index names. Raises ConfigError if it is broken or if one is missing."""
    content = read_json(index)
    table = content.get("weight_map")
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table.values()):
        raise ConfigError(f"folder: {index} does not say which file has which weight; fetch it again.")
    names = sorted(set(table.values()))
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing or not names:
        raise ConfigError(
            f"folder: {index} names {', '.join(missing) or 'no file'}, which {index.parent} does not have; fetch the "
            "pipeline again, with all its weights."
        )
    return tuple(index.parent / name for name in names)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file whose top is an object. Raises ConfigError for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"folder: {file} is not readable as JSON ({error}); fetch it again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"folder: {file} holds no JSON object; fetch it again.")
    return content
