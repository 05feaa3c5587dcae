"""Predictions and annotations in, numbers and pictures out: one protocol per kind of annotation."""

import conf.start  # noqa: F401

# isort: split
from evaluation.matching import matched_accuracy

__all__ = ["matched_accuracy"]
