"""VGG, the paper's perceptual network, its layers by the names that the literature has for them."""

from dataclasses import dataclass

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from conf.fields import choice
from models.perceptual import base
from models.weights import VGG, copy_by_name, pretrained_state
from utils.errors import UserError


@dataclass
class Options(base.Options):
    """Keys of the node ``perceptual``.

    Attributes:
        sobel: the network sees horizontal and vertical edges of the grey picture, and has two input channels
            (DeepCluster).
    """

    network: str = choice(*VGG)
    sobel: bool = MISSING


def build(options: DictConfig) -> base.PerceptualNetwork:
    """See ``models.perceptual.build``."""
    # The classifier has most of the parameters and no use here: on the meta device it costs nothing.
    with torch.device("meta"):
        features = get_model(options.network, weights=None).features
    if options.sobel:
        features[0] = nn.Conv2d(2, features[0].out_channels, kernel_size=3, padding=1, device="meta")
    features = features.to_empty(device="cpu")
    _initialise(features)
    if options.weights != "none":
        state = pretrained_state(options.weights, VGG[options.network], options.weights_dir, "perceptual.weights")
        copy_by_name(features, state, source=f"perceptual.weights={options.weights}")

    indices = vgg_layers(features)
    unknown = [layer for layer in options.layers or () if layer not in indices]
    if unknown or not options.layers:
        raise UserError(
            f"perceptual.layers: {options.network} has no layer {', '.join(unknown) or '(none given)'}; "
            f"it has {', '.join(indices)}."
        )
    normalisation = VGG[options.network].normalisation()
    if options.sobel:
        normalisation = nn.Sequential(normalisation, Sobel())
    maps = create_feature_extractor(features, {indices[layer]: layer for layer in options.layers})
    return base.PerceptualNetwork(_InOrder(maps, list(options.layers)), normalisation, options)


def vgg_layers(features: nn.Sequential) -> dict[str, str]:
    """Index of each ReLU of a VGG by the name the literature uses: ``reluB_C``, convolution C of block B, from 1."""
    layers, block, convolution = {}, 1, 0
    for index, module in features.named_children():
        if isinstance(module, nn.Conv2d):
            convolution += 1
        elif isinstance(module, nn.ReLU):
            layers[f"relu{block}_{convolution}"] = index
        elif isinstance(module, nn.MaxPool2d):
            block, convolution = block + 1, 0
    return layers


class Sobel(nn.Module):
    """Edges (N, 2, H, W) of the mean of three channels, horizontal and vertical; zeros outside the picture."""

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        down = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
        self.register_buffer("filters", torch.stack([across, down])[:, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images.mean(1, keepdim=True), self.filters.to(images.dtype), padding=1)


class _InOrder(nn.Module):
    """The maps of an extractor as a list, in the order of the config."""

    def __init__(self, extractor: nn.Module, layers: list[str]) -> None:
        super().__init__()
        self.extractor, self.layers = extractor, layers

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.extractor(images)
        return [maps[layer] for layer in self.layers]


def _initialise(features: nn.Sequential) -> None:
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            module.reset_running_stats()
