"""Tensors in, scalars out: the four losses of Choudhury et al., NeurIPS 2021, section 3, and a supervised one."""

from losses.contrastive import contrastive_loss, draw_positives
from losses.descriptors import part_descriptors
from losses.equivariance import equivariance_loss
from losses.feature import feature_loss
from losses.foreground import foreground_loss
from losses.visual import visual_consistency_loss

__all__ = [
    "contrastive_loss",
    "draw_positives",
    "equivariance_loss",
    "feature_loss",
    "foreground_loss",
    "part_descriptors",
    "visual_consistency_loss",
]
