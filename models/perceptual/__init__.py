"""Perceptual networks, a module each: ``perceptual.name=vgg`` is ``models/perceptual/vgg.py``.

A module has ``Options``, which has the keys of ``models.perceptual.base.Options``, and ``build(options)``, which gives
a ``models.perceptual.base.PerceptualNetwork``.
"""

from omegaconf import DictConfig

from conf.modules import module
from models.perceptual.base import PerceptualNetwork


def build(options: DictConfig) -> PerceptualNetwork:
    """The network of the node ``perceptual``, with its weights.

    Raises:
        UserError: it has no such layer, or its weights cannot be had or do not fit.
    """
    return module("perceptual", options.name).build(options)
