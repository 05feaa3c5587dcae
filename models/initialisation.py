"""New weights as a function of the seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.seeding import generator


@contextmanager
def seeded_initialisation(seed: int, network: str) -> Iterator[None]:
    """Within, new weights of ``network`` are a function of the seed alone, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, f"weights of the {network}").integers(2**62)))
        yield
