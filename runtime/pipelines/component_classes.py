"""The classes that a pipeline's folder names, looked up in diffusers and transformers and nowhere else.

Only names are read from the folder. A class is taken if its library has it, if it is a kind of class that a pipeline is
made of, and if the pipeline's __init__ asks for such a class.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from enum import Enum
from typing import Any

from ..config import ConfigError

# Folders were published with a class that no longer does; the one that the pipeline asks for reads the same files.
MENDED = {
    ("AudioLDM2Pipeline", "language_model", "GPT2Model"): "GPT2LMHeadModel",
    ("PixArtAlphaPipeline", "transformer", "Transformer2DModel"): "PixArtTransformer2DModel",
    ("PixArtSigmaPipeline", "transformer", "Transformer2DModel"): "PixArtTransformer2DModel",
    ("DiTPipeline", "transformer", "Transformer2DModel"): "DiTTransformer2DModel",
}

# Models that have the methods of another one, for pipelines that ask for that.
STAND_INS = {"AutoencoderTiny": "AutoencoderKL"}


def pipeline_class(name: object, file: object) -> type:
    """The class of diffusers called `name`. `file` is where the name was read.

    Raises ConfigError if there is none, if it is not a pipeline, or if it would fetch other pipelines.
    """
    import diffusers

    known = f"one of diffusers {diffusers.__version__}"
    if not isinstance(name, str):
        raise ConfigError(
            f"folder: {file} names the pipeline {name!r}, code of its own that is not run; choose a folder whose "
            f"pipeline is {known}."
        )
    found = _attribute(diffusers, name)
    absent = getattr(found, "_backends", None)
    if absent and not issubclass(found, diffusers.DiffusionPipeline):
        raise ConfigError(f"folder: {file} names {name}, which needs {', '.join(absent)}; install what is missing.")
    if not inspect.isclass(found) or not issubclass(found, diffusers.DiffusionPipeline) or not _callable(found):
        raise ConfigError(
            f"folder: {file} names the pipeline {name!r}, which is not {known}; choose another folder, or install a "
            "newer diffusers."
        )
    if found._load_connected_pipes:
        raise ConfigError(
            f"folder: {file} names {name}, which fetches other pipelines when it is loaded; choose the folder of one "
            "that stands alone."
        )
    return found


def component_class(pipeline: type, component: str, entry: object, file: object) -> type:
    """The class of one component: `entry` is what the folder says, [library, class].

    Raises ConfigError for another library, an unknown class, a class that is no component, and one that is not what
    `pipeline` asks for.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
        raise ConfigError(f"folder: {file} says {entry!r} for {component}, not a library and a class; fetch it again.")
    library, name = entry
    name = mended(pipeline, component, name)
    if _library(library) is None:
        raise ConfigError(
            f"folder: {file} takes {component} from {library!r}, and only diffusers and transformers are allowed, "
            "because other code is not run; choose another folder."
        )
    found = find_class(library, name)
    if kind(found) is None:
        raise ConfigError(
            f"folder: {file} names {library}.{name} for {component}, which is no part of a pipeline in the installed "
            f"{library}; choose another folder, or install a newer {library}."
        )
    wanted = annotated(pipeline, component)
    if not _fits(found, wanted):
        names = " or ".join(sorted({each.__name__ for each in wanted}))
        raise ConfigError(
            f"folder: {file} names {name} for {component}, and {pipeline.__name__} wants {names}; choose another "
            "folder."
        )
    return found


def mended(pipeline: type, component: str, name: str) -> str:
    """The name of the class to load where a folder says `name`."""
    return MENDED.get((pipeline.__name__, component, name), name)


def find_class(library: str, name: str) -> Any:
    """The class of a library that `component_class` allows, under its name of today; None if there is none.

    Raises ConfigError if what its module imports is not installed.
    """
    module = _library(library)
    for each in (name, name.replace("FeatureExtractor", "ImageProcessor")):
        if (found := _attribute(module, each)) is not None:
            return found
    return None


def _attribute(module: Any, name: str) -> Any:
    """An attribute of a library, which may import its module only now; None if there is none."""
    try:
        return getattr(module, name, None)
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"folder: {module.__name__}.{name} cannot be imported ({reason}); install what is missing."
        ) from error


def _library(name: str) -> Any:
    """diffusers, transformers, or a package of diffusers' pipelines by its last name; None for anything else."""
    if name in ("diffusers", "transformers"):
        return importlib.import_module(name)
    if not name.isidentifier():
        return None
    place = importlib.util.find_spec(f"diffusers.pipelines.{name}")
    if place is None or place.submodule_search_locations is None:
        return None
    return importlib.import_module(f"diffusers.pipelines.{name}")


def kind(found: object) -> str | None:
    """What a class is for: "model", "scheduler", "tokenizer", "processor" or "guider"; None for all else.

    Models are told apart by the library that loads them: see `loads_as`.
    """
    import diffusers
    import transformers
    from diffusers.guiders import BaseGuidance
    from transformers.feature_extraction_utils import FeatureExtractionMixin
    from transformers.image_processing_utils import ImageProcessingMixin

    kinds = {
        "model": (diffusers.ModelMixin, transformers.PreTrainedModel),
        "scheduler": (diffusers.SchedulerMixin,),
        "tokenizer": (transformers.PreTrainedTokenizerBase,),
        "processor": (transformers.ProcessorMixin, FeatureExtractionMixin, ImageProcessingMixin),
        "guider": (BaseGuidance,),
    }
    if not inspect.isclass(found) or hasattr(found, "_backends"):
        return None
    return next((name for name, bases in kinds.items() if issubclass(found, bases)), None)


def loads_as(found: type) -> str:
    """The library, "diffusers" or "transformers", whose names the files of a model have."""
    import diffusers

    return "diffusers" if issubclass(found, diffusers.ModelMixin) else "transformers"


def annotated(pipeline: Any, component: str) -> tuple[type, ...]:
    """The classes that the __init__ of a pipeline wants for a component; empty if it does not say."""
    wanted = pipeline._get_signature_types().get(component, ())
    return tuple(
        each for each in wanted if inspect.isclass(each) and each not in (type(None), inspect.Parameter.empty, Any)
    )


def _fits(found: type, wanted: tuple[type, ...]) -> bool:
    """Models must be of a wanted class, or stand in for one. Schedulers, tokenizers and processors exist in many forms
    that read the same files, so only their kind counts; a processor may stand where a tokenizer is asked for."""
    if not wanted:
        return True
    if kind(found) == "model":
        return issubclass(found, wanted) or STAND_INS.get(found.__name__) in {each.__name__ for each in wanted}
    kinds = {"scheduler" if issubclass(each, Enum) else kind(each) for each in wanted}
    kinds |= {"tokenizer", "processor"} if kinds & {"tokenizer", "processor"} else set()
    return kind(found) in kinds or kinds == {None}


def _callable(pipeline: type) -> bool:
    return any("__call__" in vars(base) for base in pipeline.__mro__)
