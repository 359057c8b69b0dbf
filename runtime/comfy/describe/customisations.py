"""All that a workflow has put on a model (patches, wrappers, injections ...), and questions about it as properties.

A job is scanned when it is described. A model call is scanned with the options of that call, which wrappers may change
from call to call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.hooks import EnumHookType
from comfy.patcher_extension import WrappersMP
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule

from ...sharding.overrides import is_sparse
from .code_owners import is_of_comfyui, is_of_this_pack

# The kinds of wrappers that are called before the diffusion model itself runs.
AROUND_A_CALL = (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)

# ComfyUI's own injection, which adds to the outputs of linear layers and convolutions, row by row.
_BYPASS_LORA = "bypass_lora"
_MODEL = "diffusion_model."


@dataclass(frozen=True)
class Customisations:
    """All that is on a model, without what this pack has put there.

    Args:
        object_patches: paths of the diffusion model's modules and functions that are replaced, such as
            "diffusion_model.out.forward". Compiled modules, which compute the same, and values that are no code are
            left out.
        injections: names of the code that is added during a run, such as motion modules; without bypass LoRA.
        patches: the kinds of patches inside the model that have functions (attn1_patch, dit, ...).
        wrappers: the workflow's wrappers by kind (WrappersMP), in the order they are called.
        functions: the functions in model_options, by name (model_function_wrapper, sampler_cfg_function, ...).
        override: the attention override.
        easycache: EasyCache or a relative.
        context_windows: whether the model sees a part of the frames at a time.
        conditions: every condition that the guider may evaluate; empty in a scan of a call.
    """

    object_patches: tuple[str, ...]
    injections: tuple[str, ...]
    patches: frozenset[str]
    wrappers: Mapping[str, tuple[Callable, ...]]
    functions: Mapping[str, Any]
    override: Callable | None
    easycache: Any
    context_windows: bool
    conditions: tuple[dict, ...] = ()

    @property
    def replaced(self) -> str:
        """Names an object patch or injection by which the model's own code is changed; empty if there is none."""
        if self.object_patches:
            return f"an object patch ({self.object_patches[0]})"
        if self.injections:
            return f"an injection ({self.injections[0]})"
        hooks = [hook for cond in self.conditions for hook in getattr(cond.get("hooks"), "hooks", [])]
        return "an injection on a condition" if any(h.hook_type == EnumHookType.Injections for h in hooks) else ""

    @property
    def sees_batch(self) -> bool:
        """Whether code inside the model may depend on the whole batch."""
        return (
            bool(self.replaced)
            or "model_function_wrapper" in self.functions
            or self.wraps(WrappersMP.DIFFUSION_MODEL)
            or bool(self.patches)
            or any(cond.get("gligen") for cond in self.conditions)
        )

    @property
    def acts_by_step(self) -> bool:
        """Whether code of the workflow may do something else at every step."""
        around = self.wraps(*AROUND_A_CALL) or any(name.startswith("sampler_") for name in self.functions)
        return around or self.context_windows or self.sees_batch

    @property
    def may_change_the_model(self) -> bool:
        """Whether other packs' code is around a model call; such code may change the model at some calls only."""
        around = [wrapper for kind in AROUND_A_CALL for wrapper in self.wrappers.get(kind, ())]
        function = self.functions.get("model_function_wrapper")
        return any(not is_of_comfyui(f) for f in (*around, *([function] if function is not None else ())))

    @property
    def may_use_control(self) -> bool:
        """Whether code of the workflow may read the control of a ControlNet on its way, or move it."""
        around = self.wraps(WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL) or self.may_change_the_model
        inside = bool(self.patches or self.injections) or "model_function_wrapper" in self.functions
        return around or inside

    @property
    def sparse(self) -> bool:
        """Whether attention is sparse, which needs as many queries as keys."""
        return is_sparse(self.override)

    def wraps(self, *kinds: str) -> bool:
        """Whether there are wrappers of one of these kinds (WrappersMP)."""
        return any(True for _ in self.wrappers_of(*kinds))

    def wrappers_of(self, *kinds: str) -> Iterator[Callable]:
        """The wrappers of these kinds, each once."""
        yield from {id(wrapper): wrapper for kind in kinds for wrapper in self.wrappers.get(kind, ())}.values()

    def replaced_modules(self, module: nn.Module) -> tuple[str, ...]:
        """The paths within the diffusion model of the modules that object patches replace or change in part."""
        paths = {path for path, _ in module.named_modules()}
        found = set()
        for patch in self.object_patches:
            path = patch.removeprefix(_MODEL)
            while path not in paths:
                path = path.rpartition(".")[0]
            found.add(path)
        return tuple(sorted(found))


def scan_job(guider: Any) -> Customisations:
    """Scan the model of a guider, and its conditions."""
    conditions = tuple(cond for conds in guider.conds.values() for cond in conds or ())
    options = guider.model_options.get("transformer_options", {})
    return _scan(guider.model_patcher, guider.model_options, options, guider.model_patcher.wrappers, conditions)


def scan_call(patcher: Any, transformer_options: Mapping[str, Any]) -> Customisations:
    """Scan a model at one call, whose options hold the patcher's wrappers, too."""
    return _scan(patcher, patcher.model_options, transformer_options, {}, ())


def _scan(
    patcher: Any,
    model_options: Mapping[str, Any],
    options: Mapping[str, Any],
    more_wrappers: Mapping[str, Mapping[str, list]],
    conditions: tuple[dict, ...],
) -> Customisations:
    return Customisations(
        object_patches=tuple(path for path, patch in patcher.object_patches.items() if _is_code(path, patch)),
        injections=tuple(name for name in patcher.injections if name != _BYPASS_LORA),
        patches=frozenset(
            kind
            for place in ("patches", "patches_replace")
            for kind, functions in options.get(place, {}).items()
            if functions
        ),
        wrappers=_wrappers(more_wrappers, options.get("wrappers", {})),
        functions={name: f for name, f in model_options.items() if name.startswith(("model_", "sampler_"))},
        override=options.get("optimized_attention_override"),
        easycache=options.get("easycache"),
        context_windows=bool(options.get("context_handler")) or model_options.get("context_handler") is not None,
        conditions=conditions,
    )


def _is_code(path: str, patch: Any) -> bool:
    return path.startswith(_MODEL) and callable(patch) and not isinstance(patch, OptimizedModule | nn.Parameter)


def _wrappers(*given: Mapping[str, Mapping[str, list]]) -> dict[str, tuple[Callable, ...]]:
    """{kind: wrappers}, each once, in the order they are called; this pack's are left out."""
    found: dict[str, dict[int, Callable]] = {}
    for by_kind in given:
        for kind, by_key in by_kind.items():
            for wrapper in (wrapper for several in by_key.values() for wrapper in several):
                if not is_of_this_pack(wrapper):
                    found.setdefault(kind, {})[id(wrapper)] = wrapper
    return {kind: tuple(wrappers.values()) for kind, wrappers in found.items()}
