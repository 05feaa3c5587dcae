"""Networks of a config, whose new weights are functions of its seed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from models import perceptual, segmenters
from models.backbone import Backbone
from models.perceptual import PerceptualNetwork
from utils.checkpoints import latest
from utils.seeding import generator


@contextmanager
def seeded_initialisation(seed: int, network: str) -> Iterator[None]:
    """Within, new weights of ``network`` are a function of the seed alone, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, f"weights of the {network}").integers(2**62)))
        yield


def new_segmenter(config: DictConfig, num_parts: int, has_background: bool = False) -> nn.Module:
    """The segmenter of a whole config as its training starts.

    Raises:
        UserError: as ``models.segmenters.build``, or it cannot take pictures of the sizes that it is to see.
    """
    options = config.segmenter
    if starts_from_checkpoint(config):
        options = OmegaConf.merge(options, {"weights": "none"})
    with seeded_initialisation(config.seed, "segmenter"):
        segmenter = segmenters.build(options, num_parts, has_background)
    _require_sizes(segmenter, (config.image_size, config.image_size), *whole_pictures(config))
    return segmenter


def starts_from_checkpoint(config: DictConfig) -> bool:
    """Whether a run goes on and has the segmenter's weights: where it took its first ones from need not be there."""
    return config.resume is not None and latest(config.resume) is not None


def new_perceptual_network(config: DictConfig, *sizes: tuple[int, int]) -> PerceptualNetwork:
    """The perceptual network of a whole config.

    Args:
        sizes: height and width of the pictures that it is to see, pixels; else ``image_size``.

    Raises:
        UserError: as ``models.perceptual.build``, or it cannot take pictures of these sizes.
    """
    with seeded_initialisation(config.seed, "perceptual network"):
        network = perceptual.build(config.perceptual)
    _require_sizes(network, *(sizes or [(config.image_size, config.image_size)]))
    return network


def whole_pictures(config: DictConfig) -> list[tuple[int, int]]:
    """Sizes such as an evaluation has: its shorter side, and pictures that are square, or four by three.

    But for DeepFashion's they are cut to multiples of 16 (``evaluation/protocols/keypoints.py``).
    """
    size = config.evaluation.size
    width = size * 4 // 3
    if config.dataset.name != "deepfashion":
        size, width = size // 16 * 16, width // 16 * 16
    return [(size, size), (size, width)]


def _require_sizes(network: nn.Module, *sizes: tuple[int, int]) -> None:
    for backbone in (module for module in network.modules() if isinstance(module, Backbone)):
        backbone.require_sizes(*sizes)
