"""A loader of the pack's own: its own model class, packed weights, a patcher of its own, and no recipe."""

from .nodes import LoadTinyDenoiser

NODE_CLASS_MAPPINGS = {"FixtureLoadTinyDenoiser": LoadTinyDenoiser}
