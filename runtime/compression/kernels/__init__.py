"""The arithmetic of `..quantise` in Triton, for some codecs: one launch per pass for all tensors of a message."""
