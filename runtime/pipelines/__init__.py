"""Pipelines of diffusers and xDiT on the pool: the only part that knows diffusers and xfuser."""
