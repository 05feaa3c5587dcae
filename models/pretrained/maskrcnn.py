"""Mask R-CNN of torchvision's, trained on COCO: it finds objects of 80 classes, each with a mask of its own."""

from collections.abc import Mapping

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from models.pretrained import base

Options = base.Options
NETWORKS = {"maskrcnn_resnet50_fpn": "roi_heads.box_head.fc6.weight", "maskrcnn_resnet50_fpn_v2": ""}


def build(options: DictConfig) -> "MaskRCNN":
    """See ``models.pretrained.build``."""
    wanted = base.wanted_classes(options, [*NETWORKS][-1])  # the same of all; asked before a download
    name, network = base.network_with_weights(options, NETWORKS, box_score_thresh=options.score)
    if name == "maskrcnn_resnet50_fpn":
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = 0.0  # as its weights were trained
    return MaskRCNN(network, wanted, options)


class MaskRCNN(nn.Module):
    """The masks of the objects that are wanted, as one.

    Args:
        network: of torchvision's detectors with masks.
        wanted: (C,) bool, whether a class is.
        options: see ``models.pretrained.base``.
    """

    num_parts, has_background = 1, False

    def __init__(self, network: nn.Module, wanted: Tensor, options: DictConfig) -> None:
        super().__init__()
        self.network, self.score, self.objects = network, options.score, options.objects
        self.register_buffer("wanted", wanted, persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        """Nothing: the network normalises by itself."""
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 1, h, w) of images (N, 3, h, w) in [0, 1]."""
        transform = self.network.transform  # which would resize them to the size that it was trained at
        transform.min_size, transform.max_size = (min(images.shape[-2:]),), max(images.shape[-2:])
        found = [self.probability(detections) for detections in self.network(list(images))]
        return torch.stack(found)[:, None].float().logit(base.NEVER)

    def probability(self, detections: Mapping[str, Tensor]) -> Tensor:
        """(h, w), how probable a pixel is that of a wanted object: the most by any of their masks, 0 without one.

        The largest is the one with the most pixels of a probability above one half.

        Args:
            detections: of a picture: ``labels`` (D,), ``scores`` (D,) and ``masks`` (D, 1, h, w) in [0, 1].
        """
        chosen = self.wanted[detections["labels"]] & (detections["scores"] >= self.score)
        masks = detections["masks"][chosen, 0]
        if not len(masks):
            return detections["masks"].new_zeros(detections["masks"].shape[-2:])
        if self.objects == "largest":
            masks = masks[(masks > 0.5).sum((1, 2)).argmax()][None]
        return masks.amax(0)
