"""The network as training with the seed starts from it, seen as the method's own is."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from conf.modules import module
from evaluation.labellers.base import Labeller
from models.methods import method_class
from utils.devices import memory_format


@dataclass
class Options:
    """It has none of its own: the network is ``config.segmenter``, the labeller that of ``config.method``."""


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> Labeller:
    """The network of ``config``; UserError where its pretrained weights cannot be had."""
    method = method_class(config)
    segmenter = method.new_predictor(config, num_parts)
    segmenter.to(device, memory_format=memory_format(config.channels_last)).eval()
    labeller = module("labeller", method.labeller).of_predictor(segmenter)
    labeller.title = "untrained"
    return labeller
