"""Networks: part logits from images, perceptual features from images, and the reading of their weights."""

from models.perceptual import PerceptualNetwork
from models.segmenter import Segmenter, build_segmenter

__all__ = ["PerceptualNetwork", "Segmenter", "build_segmenter"]
