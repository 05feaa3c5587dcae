"""Segmenters, a module each: ``segmenter.name=deeplab`` is ``models/segmenters/deeplab.py``.

A module has ``Options``, ``build(options, num_parts, has_background)`` (a network to train, with its weights) and
``from_state(options, state, has_background)`` (one for the weights of a checkpoint). The network has ``num_parts`` (K),
``has_background`` (its first channel is the background), ``preprocess(images)``, which refuses what is no floats in
[0, 1] by ``models.inputs.require_pictures``, ``forward`` from preprocessed images to scores (N, K [+ 1], h, w), and
``parameter_groups(head_multiplier)``.
"""

from collections.abc import Mapping

from omegaconf import DictConfig
from torch import Tensor, nn

from conf.modules import module


def build(options: DictConfig, num_parts: int, has_background: bool = False) -> nn.Module:
    """A segmenter ready to train.

    Args:
        options: the node ``segmenter``.
        num_parts: K.
        has_background: one channel more, the first, is the background's.

    Raises:
        UserError: its weights cannot be had or do not fit.
    """
    return module("segmenter", options.name).build(options, num_parts, has_background)


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool = False) -> nn.Module:
    """A segmenter that the weights of a checkpoint fit, not yet filled with them; K is read from their shapes.

    Raises:
        UserError: they are of another network.
    """
    return module("segmenter", options.name).from_state(options, state, has_background)
