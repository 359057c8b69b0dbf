"""Spatial parallelism of UNets: every rank holds some rows of the picture and of every feature map made from it.

B batch, C channels, H rows of all ranks, R local rows, W columns; dimensions between C and the rows (the frames of a
video) are kept as they are. Convolutions get a halo of rows from the neighbours, group norms the statistics of all
ranks, self-attention the keys and values of all rows; the rest of a UNet works on each pixel alone.
"""
