"""A model patch as popular packs write one: closures that share a counter, and options kept in a module."""

from .nodes import KeepLog, SharpenAttention, TintByReference

NODE_CLASS_MAPPINGS = {
    "FixtureSharpenAttention": SharpenAttention,
    "FixtureTintByReference": TintByReference,
    "FixtureKeepLog": KeepLog,
}
