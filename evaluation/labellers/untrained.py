"""The segmenter as training with the seed starts from it."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from evaluation.labellers.segmenter import SegmenterLabeller
from models.initialisation import new_segmenter
from utils.devices import memory_format


@dataclass
class Options:
    """It has none of its own: the network is ``config.segmenter``."""


class Untrained(SegmenterLabeller):
    """Scores with a network that has seen nothing."""

    title = "untrained"


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> Untrained:
    """The network of ``config``; UserError where its pretrained weights cannot be had."""
    segmenter = new_segmenter(config, num_parts)
    return Untrained(segmenter.to(device, memory_format=memory_format(config.channels_last)).eval())
