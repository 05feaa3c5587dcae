"""Networks that others have trained to find objects, a module each: ``pretrained=maskrcnn`` finds the foreground.

A module has ``Options``, which has the keys of ``models.pretrained.base.Options``, and ``build(options)``: a network
that predicts as one of ``method=foreground`` does, with ``num_parts`` (1), ``has_background``, ``preprocess(images)``
and a ``forward`` from preprocessed images to logits (N, 1, h, w), above 0 on what is found.
"""

from omegaconf import DictConfig
from torch import nn

from conf.modules import module


def build(options: DictConfig) -> nn.Module:
    """The network of the node ``pretrained`` with its weights, on the CPU, in eval mode.

    Raises:
        UserError: it knows no such class, or its weights cannot be had or do not fit.
    """
    return module("pretrained", options.name).build(options).eval()
