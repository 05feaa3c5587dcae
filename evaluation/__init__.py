"""Predictions and annotations in, numbers and pictures out: one protocol per kind of annotation."""

from evaluation.matching import matched_accuracy

__all__ = ["matched_accuracy"]
