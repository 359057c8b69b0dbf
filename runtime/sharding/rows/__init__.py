"""Spatial parallelism: every rank holds some rows of a picture and of every feature map made from it.

B batch, C channels, H rows of all ranks, R own rows, W columns; what stands between C and the rows (the frames of a
video) is kept as it is. Convolutions get the rows they lack from the neighbours, group norms the sums of all ranks,
self-attention the keys and values of all rows; the rest of a UNet works on each pixel alone.
"""
