"""A method knows networks and losses: its forward takes views and returns named scalar losses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from losses import draw_positives
from models.methods.contrastive_reconstruction import ContrastiveReconstruction
from models.perceptual import PerceptualNetwork
from models.segmenter import build_segmenter
from utils.errors import UserError
from utils.seeding import generator


@contextmanager
def seeded_initialisation(seed: int, network: str) -> Iterator[None]:
    """Within, new weights of ``network`` are a function of the seed alone, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, f"weights of the {network}").integers(2**62)))
        yield


def build_contrastive_reconstruction(cfg: Any) -> ContrastiveReconstruction:
    """The paper's method from the whole config."""
    try:
        draw_positives(cfg.batch_size, cfg.num_parts, generator(cfg.seed, "check"), cfg.method.positives)
    except ValueError as error:
        raise UserError(f"batch_size={cfg.batch_size}, method.positives={cfg.method.positives}: {error}.") from error
    with seeded_initialisation(cfg.seed, "segmenter"):
        segmenter = build_segmenter(cfg.segmenter, cfg.num_parts)
    with seeded_initialisation(cfg.seed, "perceptual network"):
        perceptual = PerceptualNetwork(cfg.perceptual)
    return ContrastiveReconstruction(segmenter, perceptual, cfg.method, cfg.seed)


METHODS = {"contrastive_reconstruction": build_contrastive_reconstruction}


def build_method(cfg: Any) -> ContrastiveReconstruction:
    """The method ``cfg.method.name`` with its networks, on the CPU, in train mode.

    Raises:
        UserError: unknown method, a batch too small for it, or weights that cannot be had.
    """
    if cfg.method.name not in METHODS:
        raise UserError(f"method.name={cfg.method.name}: known are {', '.join(METHODS)}.")
    return METHODS[cfg.method.name](cfg)
