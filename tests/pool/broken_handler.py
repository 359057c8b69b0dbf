"""A handler's module that cannot be imported."""

raise ImportError("the broken handler was imported")
