"""Tensors in, scalars out; one file for each loss."""

from losses.part_occurrence import part_occurrence_loss

__all__ = ["part_occurrence_loss"]
