"""A pack that remembers: in variables of a module, in an object of its own class, in a dict of options."""

from .nodes import Drift, ForgetDrift, KeepLock, TellDrift

NODE_CLASS_MAPPINGS = {
    "FixtureDrift": Drift,
    "FixtureForgetDrift": ForgetDrift,
    "FixtureTellDrift": TellDrift,
    "FixtureKeepLock": KeepLock,
}
