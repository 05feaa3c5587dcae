"""Networks: part logits from images, perceptual features from images, the reading of weights, and the methods."""

from models.checkpoint import load_segmenter, restore_segmenter
from models.initialisation import seeded_initialisation
from models.methods import build_method, own_loss_weights, task_of
from models.perceptual import PerceptualNetwork
from models.segmenter import Segmenter, build_segmenter

__all__ = [
    "PerceptualNetwork",
    "Segmenter",
    "build_method",
    "build_segmenter",
    "load_segmenter",
    "own_loss_weights",
    "restore_segmenter",
    "seeded_initialisation",
    "task_of",
]
