"""Tensors in, scalars out; one file for each loss."""

from losses.info_nce import info_nce_loss
from losses.mutual_information import mutual_information_loss
from losses.part_occurrence import part_occurrence_loss

__all__ = ["info_nce_loss", "mutual_information_loss", "part_occurrence_loss"]
