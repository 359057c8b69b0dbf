"""Adds the pack's translations in web/locales to ComfyUI's answer at /i18n.

ComfyUI itself looks for translations in a folder at the pack's top level; this pack keeps all browser files in web/.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

LOCALES = Path(__file__).resolve().parent.parent / "web" / "locales"
ROUTES = ("/i18n", "/api/i18n")


@functools.cache
def translations() -> dict[str, dict[str, Any]]:
    """By language: the content of main.json, and nodeDefs and settings from the files of these names."""
    found: dict[str, dict[str, Any]] = {}
    for folder in LOCALES.iterdir():
        files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
        found[folder.name] = {**files.pop("main"), **files}
    return found


def words_of(language: str) -> dict[str, str]:
    """Translations of the pack's messages, by the English text; empty for English."""
    return translations().get(language, {}).get("compactParallel", {})


def merged(first: Any, second: Any) -> Any:
    """Two nested dicts merged; where both have a value, the second's is taken."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    shared = {key: merged(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **shared}


@web.middleware
async def add_translations(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that adds this pack's translations to ComfyUI's answer at /i18n."""
    answer = await handler(request)
    if request.path not in ROUTES or not isinstance(answer, web.Response) or answer.status != 200:
        return answer
    return web.json_response(merged(json.loads(answer.text), translations()))
