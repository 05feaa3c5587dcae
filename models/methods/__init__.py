"""Methods, a module each: ``method.name=scops`` is ``models/methods/scops.py``; see ``models.methods.base``."""

import torch
from omegaconf import DictConfig

from conf.modules import module
from models.initialisation import starts_from_checkpoint
from models.methods.base import Method
from models.weights import require_place
from utils.errors import UserError


def method_class(config: DictConfig) -> type[Method]:
    """The class of the method that a config names."""
    return module("method", config.method.name).Method


def build(config: DictConfig, has_masks: bool, device: torch.device, num_classes: int = 0) -> Method:
    """The method of a config with its networks, on the CPU, in train mode.

    Args:
        config: see :func:`require`, as for ``has_masks`` and ``num_classes``.
        device: that it is to be trained on.

    Raises:
        UserError: as :func:`require`, or it cannot be deterministic on the device as ``deterministic`` asks, weights
            cannot be had, or memory is not there.
    """
    require(config, has_masks, num_classes)
    method = method_class(config)
    if config.deterministic and device.type == "cuda" and (gradient := method.not_deterministic(config.method)):
        raise UserError(f"deterministic=true: CUDA has no deterministic algorithm for {gradient}, or device=cpu.")
    made = method.from_config(config)
    made.require_memory(config.image_size, device)
    if config.deterministic and device.type == "cuda":
        for name, parameter in made.named_parameters():
            if name.endswith("pos_embed") and parameter.requires_grad:
                raise UserError(
                    "deterministic=true: CUDA has no deterministic algorithm for the gradient of resized position "
                    f"embeddings ({name}): give segmenter.frozen=0, another segmenter, or deterministic=false."
                )
    return made


def require(config: DictConfig, has_masks: bool, num_classes: int = 0) -> None:
    """What a method needs, as far as that can be told before any network is made.

    Args:
        config: of a method that learns from classes, ``method.num_classes`` becomes the data set's where it is null.
        has_masks: whether the data set to train on has foreground masks; ``dataset.train_mask=none`` does without.
        num_classes: how many classes the data set has; 0: none.

    Raises:
        UserError: it needs masks, classes or a larger batch, or a file of weights is not there.
    """
    method, name = method_class(config), config.method.name
    if method.needs_masks and not has_masks and config.dataset.get("train_mask") != "none":
        raise UserError(
            f"method={name} trains on foreground masks, and dataset_name={config.dataset_name} has none: give another "
            "data set, or a method that needs no masks."
        )
    if method.needs_labels:
        _require_classes(config, num_classes)
    least, because = method.min_batch_size(config.method)
    if config.batch_size < least:
        raise UserError(
            f"batch_size={config.batch_size}: {because} compares images with each other and needs {least} or more."
        )
    for node in method.networks(config.method):
        if not (node == "segmenter" and starts_from_checkpoint(config)):
            require_place(config[node].weights, f"{node}.weights")


def _require_classes(config: DictConfig, num_classes: int) -> None:
    name = config.method.name
    if not num_classes:
        raise UserError(
            f"method={name} trains on the pictures' classes, and dataset_name={config.dataset_name} has none: give "
            "another data set, or a method that needs no classes."
        )
    if config.method.num_classes not in (None, num_classes):
        raise UserError(
            f"method.num_classes={config.method.num_classes}: dataset_name={config.dataset_name} has {num_classes}. "
            "Leave it out."
        )
    config.method.num_classes = num_classes
