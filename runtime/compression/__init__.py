"""Residual compression of what crosses a link. `wire` is all that attention sees of it."""
