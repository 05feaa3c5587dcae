"""Randomness as a function of (seed, purpose, step, place), never of how often a generator was used before.

A resumed run, more workers or more devices then draw the same numbers, and no generator state needs saving.
"""

import zlib
from dataclasses import dataclass

import numpy as np


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A fresh generator for one purpose at one place of one step.

    Args:
        seed: the run's seed, >= 0.
        purpose: what is drawn, for example ``"crop"``: two purposes never share numbers.
        key: where it is drawn, for example ``(step, place in the batch)``, each >= 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *key])


@dataclass(frozen=True)
class Randomness:
    """The generators of one step.

    Attributes:
        seed: the run's seed, >= 0.
        step: the update, from 0.
        places: where the images of this process stand in the batch of all.
    """

    seed: int
    step: int
    places: range

    def of_step(self, purpose: str) -> np.random.Generator:
        """For what is drawn once for the batch of all: the same in every process."""
        return generator(self.seed, purpose, self.step)

    def of_each(self, purpose: str) -> list[np.random.Generator]:
        """One for each image of this process."""
        return [generator(self.seed, purpose, self.step, place) for place in self.places]
