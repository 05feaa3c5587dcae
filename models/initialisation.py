"""Networks of a config, whose new weights are functions of its seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig
from torch import nn

from models import segmenters
from models.perceptual import PerceptualNetwork
from utils.seeding import generator


@contextmanager
def seeded_initialisation(seed: int, network: str) -> Iterator[None]:
    """Within, new weights of ``network`` are a function of the seed alone, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, f"weights of the {network}").integers(2**62)))
        yield


def new_segmenter(config: DictConfig, num_parts: int, has_background: bool = False) -> nn.Module:
    """The segmenter of a whole config as its training starts; see ``models.segmenters.build``."""
    with seeded_initialisation(config.seed, "segmenter"):
        return segmenters.build(config.segmenter, num_parts, has_background)


def new_perceptual_network(config: DictConfig) -> PerceptualNetwork:
    """The perceptual network of a whole config; UserError where its weights cannot be had."""
    with seeded_initialisation(config.seed, "perceptual network"):
        return PerceptualNetwork(config.perceptual)
