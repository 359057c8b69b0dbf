"""Reads the pack's settings from ComfyUI's settings file, which its dialog writes; headless runs read them, too."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import folder_paths

from ..runtime.comfy.run.devices import devices_of
from ..runtime.config import ConfigError, ParallelConfig, PoolConfig
from ..runtime.pool.registry import pools

log = logging.getLogger(__name__)

IDLE_MINUTES = "CompactParallel.IdleMinutes"
DEFAULT_DEVICES = "CompactParallel.DefaultDevices"
LANGUAGE = "Comfy.Locale"
MOST_IDLE_MINUTES = 7 * 24 * 60
_USER = "default"
"""The user whose settings are read. Workers serve all users, so even with --multi-user there is one set."""


def stored(name: str, default: Any) -> Any:
    """A setting as it was last saved; `default` if it was never changed."""
    try:
        text = Path(folder_paths.get_public_user_directory(_USER), "comfy.settings.json").read_text(encoding="utf-8")
        return json.loads(text).get(name, default)
    except (OSError, ValueError):  # no file yet, or one that ComfyUI also treats as empty
        return default


def default_pool() -> PoolConfig:
    """The pool of a Parallel Model with none plugged in. Raises ConfigError, also for devices that do not exist."""
    try:
        pool = PoolConfig(devices=str(stored(DEFAULT_DEVICES, PoolConfig().devices)))
        devices_of(ParallelConfig(pool=pool))
        return pool
    except ConfigError as error:
        raise ConfigError(f"The default devices in Settings > Parallel are wrong: {error}") from error


def set_idle_minutes(minutes: Any) -> None:
    """Sets after how many minutes without work pools stop. Raises ConfigError."""
    if not isinstance(minutes, int | float) or not 0 < minutes <= MOST_IDLE_MINUTES:
        raise ConfigError(f"idle_minutes is {minutes!r}; it must be a number above 0 and at most {MOST_IDLE_MINUTES}.")
    pools().idle_seconds = minutes * 60.0
    for pool in pools().all():
        pool.stop_when_idle_for(minutes * 60.0)


def apply_settings() -> None:
    """Applies the saved idle time when ComfyUI starts."""
    try:
        set_idle_minutes(stored(IDLE_MINUTES, pools().idle_seconds / 60))
    except ConfigError as error:
        log.warning("Settings > Parallel: %s", error)
