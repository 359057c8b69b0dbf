"""What all patches of this pack know together."""

import threading

CALLS = 0
LOCK = None
NAMES = []
OPTIONS = {"say": print, "drift": 0.0}


class Memory:
    """Of this pack's own class, and with something in it that is no plain data."""

    def __init__(self):
        self.total = 0.0
        self.say = print


MEMORY = Memory()


def remember(mean):
    """Counts a call. Returns by how much the next prediction is off."""
    global CALLS, LOCK  # noqa: PLW0603 - as packs do
    LOCK = LOCK or threading.Lock()
    CALLS += 1
    NAMES.append(f"call {CALLS}")
    OPTIONS["drift"] += 0.01 * mean
    MEMORY.total += mean
    return 0.01 * CALLS + OPTIONS["drift"] + 0.001 * MEMORY.total
