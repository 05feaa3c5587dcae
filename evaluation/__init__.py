"""Predictions and annotations in, numbers and pictures out: one protocol per kind of annotation."""
