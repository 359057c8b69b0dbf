"""A ComfyUI 0.30 with the conventions of later ones, for tests: python3 tests/newer/conventions.py FOLDER

The folder is a copy of the ComfyUI at COMFYUI_PATH whose code was rewritten, so that a server and workers can run it:
- attention is given its queries, keys and values in containers (0.32), which a function takes them out of;
- modules that attend hold a ComfyAttention, a module without parameters, whose function a checkpoint may choose: it is
  given as `preferred_attention`, and an override of the workflow's comes before it;
- an override may have a `container_function`, which is given the containers themselves;
- two nodes put overrides of ComfyUI's own on a model: a sparse attention, and another attention function for all;
- PromptServer is made from the event loop and an asset manager.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ATTENTION = ("optimized_attention", "optimized_attention_masked")
HOME = "comfy.ldm.modules.attention"
# The parts of these that attend are no diffusion models', and take their tensors as they are.
WITHOUT = ("rt_detr", "depth_anything_3", "sam3", "vae", "supir", "cosmos_tokenizer")

# What people keep in ComfyUI's folder.
OF_USERS = {"custom_nodes", "input", "models", "output", "temp", "user"}

WRAPPER = '''
class AttentionTensorContainer:
    """A tensor that is handed over: whoever takes it is the only one to have it."""

    __slots__ = ("tensor",)

    def __init__(self, tensor):
        self.tensor = tensor

    def peek(self):
        if self.tensor is None:
            raise RuntimeError("this attention tensor was taken already")
        return self.tensor

    def take(self):
        tensor, self.tensor = self.peek(), None
        return tensor


class ComfyAttention(nn.Module):
    """Which attention function a module of a checkpoint prefers; None for no preference."""

    def __init__(self):
        super().__init__()
        self.config = None
        self.function = None


def _taken(args):
    return [arg.take() if isinstance(arg, AttentionTensorContainer) else arg for arg in args]


def wrap_attn(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        preferred = kwargs.pop("preferred_attention", None)
        boxed = bool(args) and isinstance(args[0], AttentionTensorContainer)
        if "_inside_attn_wrapper" not in kwargs:
            kwargs["_inside_attn_wrapper"] = True
            override = (kwargs.get("transformer_options") or {}).get("optimized_attention_override")
            if override is not None:
                if boxed and hasattr(override, "container_function"):
                    return override.container_function(*args, **kwargs)
                return override(func, *_taken(args), **kwargs)
            if preferred is not None and preferred.function is not None:
                return preferred.function(*args, **kwargs)
        if boxed and wrapper.container_function is not None:
            return wrapper.container_function(*args, **kwargs)
        return func(*_taken(args), **kwargs)

    wrapper.container_function = None
    return wrapper
'''

NODES = {
    "nodes_sparse_attention": '''
"""Attention to every other block of keys, where there are as many keys as queries; else to all of them."""

BLOCK = 4


def make_attention_override():
    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        dim = 2 if skip_reshape else 1
        if q.shape[dim] == k.shape[dim] and mask is None:
            kept = [i for i in range(k.shape[dim]) if i // BLOCK % 2 == 0]
            k, v = (x[:, :, kept] if skip_reshape else x[:, kept] for x in (k, v))
        return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)

    return override
''',
    "nodes_attention_backend": '''
"""Another attention function for all attention of a model."""

from comfy.ldm.modules.attention import attention_basic


def make_override(attention_function=attention_basic):
    def override(func, *args, **kwargs):
        return attention_function(*args, **kwargs)

    override.container_function = attention_function
    return override
''',
}


class _Callers(ast.NodeTransformer):
    """Puts tensors into containers where attention is called, and a ComfyAttention into the modules that call it."""

    def __init__(self) -> None:
        self.calls = 0
        self._classes: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        before = self.calls
        self._classes.append(node.name)
        self.generic_visit(node)
        self._classes.pop()
        init = next((part for part in node.body if getattr(part, "name", "") == "__init__"), None)
        is_module = any(ast.unparse(base).endswith("Module") for base in node.bases)  # what it has, its subclasses have
        if init is not None and is_module and self.calls > before:
            init.body += ast.parse(f"self.comfy_attention = __import__('{HOME}', fromlist=['x']).ComfyAttention()").body
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        of_module = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self"
        if name not in ATTENTION or of_module or len(node.args) < 3:
            return node
        self.calls += 1
        box = f"__import__('{HOME}', fromlist=['x']).AttentionTensorContainer"
        node.args[:3] = [ast.Call(ast.parse(box, mode="eval").body, [arg], []) for arg in node.args[:3]]
        if self._classes:
            prefers = ast.parse("getattr(self, 'comfy_attention', None)", mode="eval").body
            node.keywords.append(ast.keyword("preferred_attention", prefers))
        return node


def make(source: Path, folder: Path) -> None:
    """Write the copy; `folder` must not exist yet."""
    copy(source, folder)
    for path in _diffusion_models(folder / "comfy"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        callers = _Callers()
        changed = callers.visit(tree)
        if path == folder / "comfy/ldm/modules/attention.py":
            _replace_wrapper(changed)
        elif not callers.calls:
            continue
        path.write_text(ast.unparse(ast.fix_missing_locations(changed)), encoding="utf-8")
    _with_asset_manager(folder)
    for name, text in NODES.items():
        (folder / "comfy_extras" / f"{name}.py").write_text(text, encoding="utf-8")


def copy(source: Path, folder: Path) -> None:
    """ComfyUI's own files, unchanged."""

    def unneeded(place: str, names: list[str]) -> set[str]:
        return set(names) & (OF_USERS if Path(place) == source else set())

    shutil.copytree(source, folder, ignore=unneeded)  # with compiled code, which fits what is not rewritten


def _diffusion_models(comfy: Path) -> Iterator[Path]:
    for path in sorted((comfy / "ldm").rglob("*.py")):
        if not any(part in path.as_posix() for part in WITHOUT):
            yield path


def _replace_wrapper(tree: ast.Module) -> None:
    place = next(i for i, part in enumerate(tree.body) if getattr(part, "name", "") == "wrap_attn")
    tree.body[place : place + 1] = ast.parse(WRAPPER).body


def _with_asset_manager(folder: Path) -> None:
    server, main = folder / "server.py", folder / "main.py"
    for path, old, new in (
        (server, "def __init__(self, loop):", "def __init__(self, loop, asset_manager):"),
        (main, "server.PromptServer(asyncio_loop)", "server.PromptServer(asyncio_loop, None)"),
    ):
        text = path.read_text(encoding="utf-8")
        if old not in text:
            raise SystemExit(f"{path.name} of this ComfyUI does not have {old!r}: it is not a ComfyUI 0.30.")
        path.write_text(text.replace(old, new), encoding="utf-8")


if __name__ == "__main__":
    make(Path(os.environ["COMFYUI_PATH"]), Path(sys.argv[1]))
