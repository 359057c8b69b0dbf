"""Validates the inputs of this pack's nodes before a workflow runs, so that ComfyUI refuses it with a clear sentence.

ComfyUI itself checks every value against its range and choices, and silently drops inputs that a node does not know.
This module finds what ComfyUI does not see: choices and inputs that do not exist (any more), and values that do not go
together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ..runtime.config import ConfigError

Inputs = dict[str, Any]
"""A node's inputs as in API form: "mode" and "mode.codec"; a link is a list [node, output]."""

SHOWN_ONLY = "$$"
"""Prefix of the inputs that ComfyUI's front end only shows on a node."""

_prompt: ContextVar[dict[str, Any] | None] = ContextVar("prompt", default=None)


def remember(request: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's on-prompt handler: keeps the workflow, whose validation follows in the same task."""
    _prompt.set(request.get("prompt"))
    return request


@web.middleware
async def forget(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that drops the workflow of the last request, because one task serves all requests of a connection."""
    _prompt.set(None)
    return await handler(request)


def verdict(node_class: type[io.ComfyNode], shown_at: str, *checks: Callable[[Inputs], str]) -> bool | str:
    """The result of a node's validate_inputs: True, or the sentence of the first error.

    ComfyUI shows the sentence at the input `shown_at`, which is the one that the node's validate_inputs takes. If the
    workflow does not have that input, ComfyUI ignores the result, so the sentence is raised as ConfigError.
    """
    context = get_executing_context()
    if context is None or _prompt.get() is None:  # called outside of a request, so the workflow is not known
        return True
    inputs = _node(context.node_id).get("inputs", {})
    sentence = next(filter(None, (check(inputs) for check in (_Unknown(node_class), *checks))), "")
    if sentence and shown_at not in inputs:
        raise ConfigError(sentence)
    return sentence.removeprefix(f"{shown_at}: ") or True


def plugged(inputs: Inputs, name: str, node_class: type[io.ComfyNode]) -> Any:
    """The output of the node behind the link `name`. Raises Untold if it is known only once that node runs."""
    source = _node(inputs[name][0]) if isinstance(inputs[name], list) else {}
    if source.get("class_type") != node_class.define_schema().node_id:
        raise Untold
    given: dict[str, Any] = {}
    for key, value in source.get("inputs", {}).items():
        if isinstance(value, list):
            raise Untold
        outer, _, inner = key.partition(".")
        if outer in _dynamic(node_class):
            given.setdefault(outer, {})[inner or outer] = value
        else:
            given[key] = value
    try:
        return node_class.execute(**given).args[0]
    except (ConfigError, TypeError) as error:  # that node's own validation reports it
        raise Untold from error


class Untold(Exception):
    """The value of an input is not known before the workflow runs."""


def _node(number: str) -> dict[str, Any]:
    return (_prompt.get() or {}).get(number, {})


def _dynamic(node_class: type[io.ComfyNode]) -> dict[str, dict[str, list[str]]]:
    """The names of the inputs of each choice of each DynamicCombo."""
    return {
        one.id: {option.key: [f"{one.id}.{inner.id}" for inner in option.inputs] for option in one.options}
        for one in node_class.define_schema().inputs
        if isinstance(one, io.DynamicCombo.Input)
    }


class _Unknown:
    """The check that finds choices and inputs that a node does not have."""

    def __init__(self, node_class: type[io.ComfyNode]) -> None:
        self._schema = node_class.define_schema()
        self._dynamic = _dynamic(node_class)

    def __call__(self, inputs: Inputs) -> str:
        known = [one.id for one in self._schema.inputs]
        chosen = {name: inputs[name] for name in self._dynamic if name in inputs}
        for name, value in chosen.items():
            choices = self._dynamic[name]
            if value not in list(choices):
                return f"{name} is {value!r}; choose one of {', '.join(choices)}."
            known += choices[value]
        # Inputs of modes that are not chosen are harmless.
        idle = {name for choices in self._dynamic.values() for names in choices.values() for name in names}
        unknown = [name for name in inputs if name not in {*known, *idle} and not name.startswith(SHOWN_ONLY)]
        if not unknown:
            return ""
        where = "".join(f" with {name} {value}" for name, value in chosen.items())
        return f"{self._schema.display_name} has no input {', '.join(unknown)}{where}; it has {', '.join(known)}."
