"""Residual compression of the tensors that cross a link. Attention uses only the interface in `wire`."""
