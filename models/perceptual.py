"""The perceptual network: frozen features whose likeness says which pixels belong together."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from models.weights import VGG, copy_by_name, pretrained_state
from utils.errors import UserError


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


class PerceptualNetwork(nn.Module):
    """VGG features, frozen and in eval mode whatever the caller does.

    Args:
        config: the node ``perceptual``: ``network`` (``"vgg19"`` or ``"vgg16"``); ``layers``, the features' factors by
            layer name, such as ``relu3_2``; ``weights``: ``"imagenet"``, ``"none"`` (random) or the
            path of a state dict with torchvision's names; ``weights_dir``.

    Raises:
        UserError: the network has no such layer, or the weights cannot be had or do not fit.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        # The classifier has most of the parameters and no use here: on the meta device it costs nothing.
        with torch.device("meta"):
            features = get_model(config.network, weights=None).features
        features = features.to_empty(device="cpu")
        _initialise(features)
        if config.weights != "none":
            state = pretrained_state(config.weights, VGG[config.network], config.weights_dir, "perceptual.weights")
            state = {name.removeprefix("features."): tensor for name, tensor in state.items()}
            copy_by_name(features, state, source=f"perceptual.weights={config.weights}")

        indices = vgg_layers(features)
        unknown = [layer for layer in config.layers if layer not in indices]
        if unknown or not config.layers:
            raise UserError(
                f"perceptual.layers: {config.network} has no layer {', '.join(unknown) or '(none given)'}; "
                f"it has {', '.join(indices)}."
            )
        self.scales = {layer: float(scale) for layer, scale in config.layers.items()}
        self.normalisation = VGG[config.network].normalisation()
        self.extractor = create_feature_extractor(features, {indices[layer]: layer for layer in self.scales})
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (N, C_i, h_i, w_i), one per layer, scaled, from RGB images (N, 3, H, W) in [0, 1]."""
        maps = self.extractor(self.normalisation(images))
        return [scale * maps[layer] for layer, scale in self.scales.items()]


def _initialise(features: nn.Sequential) -> None:
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
