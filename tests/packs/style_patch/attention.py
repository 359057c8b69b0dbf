"""The pack's own attention, which knows its options by import."""

from .options import OPTIONS


def sharpened(func, q, k, v, heads, *args, calls, **kwargs):
    """Attention whose softmax is sharper the more calls went before."""
    factor = OPTIONS["sharpness"] * (1.0 + 0.05 * calls) + OPTIONS["layers"]["first"]
    return func(q, k * factor, v, heads, *args, **kwargs)
