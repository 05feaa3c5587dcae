"""Randomness as a function of (seed, purpose, step, place), never of how often a generator was used before.

A resumed run, more workers or more devices then draw the same numbers, and no generator state needs saving.
"""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A fresh generator for one purpose at one place of one step.

    Args:
        seed: the run's seed, >= 0.
        purpose: what is drawn, for example ``"crop"``: two purposes never share numbers.
        key: where it is drawn, for example ``(step, place in the batch)``, each >= 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *key])
