"""Tensors in, scalars out; one file for each loss."""
