"""The arithmetic of `..quantise` in Triton, for the codecs that have kernels: one launch per pass and message."""
