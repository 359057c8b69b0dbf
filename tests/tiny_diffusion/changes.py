"""What workflows put into a model in place of its own code: object patches and injections that look at all tokens."""

from __future__ import annotations

import functools

import torch

from .patches import along


class Mixing(torch.nn.Module):
    """A module of another pack, behind or in place of one of the model's: mixes what lies along `dim`."""

    def __init__(self, dim, inner=None):
        super().__init__()
        self.dim, self.inner = dim, inner

    def forward(self, x, *args, **kwargs):
        return along(x if self.inner is None else self.inner(x, *args, **kwargs), self.dim)


def after(path, dim=1):
    """The forward of the module at `path` is replaced by one that mixes what it makes."""

    def change(module):
        inner = module.get_submodule(path)
        original = inner.forward

        def forward(*args, **kwargs):
            out = original(*args, **kwargs)
            return tuple(along(x, dim) for x in out) if isinstance(out, tuple) else along(out, dim)

        inner.forward = forward

    return change


def in_place_of(path, dim=1):
    """The module at `path` is replaced by one of another class."""

    def change(module):
        module.set_submodule(path, Mixing(dim, module.get_submodule(path)))

    return change


def hooked(path, dim=1):
    """The module at `path` gets a hook."""

    def change(module):
        hook = lambda inner, args, out: along(out, dim)  # noqa: E731
        module.get_submodule(path).register_forward_hook(hook)

    return change


def appended(path, dim):
    """One layer more, as motion modules are."""

    def change(module):
        module.get_submodule(path).append(Mixing(dim))

    return change


def around_the_blocks(module):
    """The function that runs the blocks is another one, as some caches have it."""
    original = module.forward_orig

    def forward_orig(img, *args, **kwargs):
        return along(original(img, *args, **kwargs), 1)

    module.forward_orig = functools.wraps(original)(forward_orig)


def changed(build, change):
    """A function that builds the model with the change."""

    def built():
        module = build()
        change(module)
        return module

    return built
