"""DeepLab-v3 of torchvision's, trained on COCO with the 20 classes of PASCAL VOC: a class for each pixel."""

import numpy as np
import torch
from omegaconf import DictConfig
from scipy import ndimage
from torch import Tensor, nn
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from models.pretrained import base
from models.weights import Normalisation

Options = base.Options
NETWORKS = {
    "deeplabv3_resnet101": "backbone.layer3.22.conv1.weight",
    "deeplabv3_mobilenet_v3_large": "backbone.0.0.weight",
    "deeplabv3_resnet50": "",
}


def build(options: DictConfig) -> "DeepLab":
    """See ``models.pretrained.build``."""
    wanted = base.wanted_classes(options, [*NETWORKS][-1])  # the same of all; asked before a download
    _, network = base.network_with_weights(options, NETWORKS)
    return DeepLab(network, wanted, options)


class DeepLab(nn.Module):
    """The pixels of the classes that are wanted. It knows no objects: one is what hangs together.

    Args:
        network: of torchvision's segmenters.
        wanted: (C,) bool, whether a class is.
        options: see ``models.pretrained.base``.
    """

    num_parts, has_background = 1, False

    def __init__(self, network: nn.Module, wanted: Tensor, options: DictConfig) -> None:
        super().__init__()
        transforms = DeepLabV3_ResNet50_Weights.DEFAULT.transforms()  # of all of them
        self.normalise = Normalisation(tuple(transforms.mean), tuple(transforms.std))
        self.network, self.score, self.objects = network, options.score, options.objects
        self.register_buffer("wanted", wanted, persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        return self.normalise(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, 1, h, w) of preprocessed images (N, 3, h, w), above 0 where ``score`` is passed."""
        probabilities = self.network(inputs)["out"].float().softmax(1)
        return torch.stack([self.logits(own) for own in probabilities])[:, None]

    def logits(self, probabilities: Tensor) -> Tensor:
        """(h, w), the logit of the probability of all wanted classes, less that of ``score``.

        Of ``objects`` "largest" it stays below 0 outside the region of most pixels; those side by side, or one above
        the other, hang together.

        Args:
            probabilities: (C, h, w) of a picture.
        """
        logits = probabilities[self.wanted].sum(0).logit(base.NEVER)
        logits = logits - torch.full_like(logits, self.score).logit(base.NEVER)
        if self.objects == "largest":
            regions, _ = ndimage.label((logits > 0).cpu().numpy())
            sizes = np.bincount(regions.ravel())[1:]
            largest = regions == sizes.argmax() + 1 if len(sizes) else regions > 0
            lowest = torch.full_like(logits, base.NEVER).logit()
            logits = torch.where(torch.from_numpy(largest).to(logits.device), logits, logits.minimum(lowest))
        return logits
