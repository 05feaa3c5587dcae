"""The segmenter: DeepLab-v2 on ResNet-50, output stride 8."""

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from models.weights import RESNET50, copy_by_name, pretrained_state

Variant = Literal["caffe", "torchvision"]

HEAD = "layer5"


class DilatedHead(nn.Module):
    """Sum of four dilated 3 x 3 convolutions from ``in_channels`` to K part logits."""

    def __init__(self, in_channels: int, num_parts: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, num_parts, kernel_size=3, padding=dilation, dilation=dilation)
            for dilation in (6, 12, 18, 24)
        )
        for convolution in self.conv2d_list:
            nn.init.normal_(convolution.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        return sum(convolution(features) for convolution in self.conv2d_list)


class Segmenter(ResNet):
    """Part logits from images; state-dict names and shapes are those of the published checkpoints.

    Scale and shift of every batch norm are frozen except in the 1 x 1 projections; running statistics are not, so in
    train mode the network normalises by the batch (release).

    Args:
        num_parts: K.
        variant: ``"caffe"``, the paper's network: stride 2 of layer2 on its first 1 x 1 convolution, ImageNet means
            subtracted from 0..255; or ``"torchvision"``: strides, dilations and normalisation of torchvision's weights.
    """

    def __init__(self, num_parts: int, variant: Variant = "caffe") -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3], replace_stride_with_dilation=[False, True, True])
        del self.avgpool, self.fc
        self.num_parts = num_parts
        self.variant = variant
        self.normalisation = RESNET50[variant].normalisation()
        self.maxpool.ceil_mode = True
        if variant == "caffe":
            self._move_strides()
        # Only the second half of layer4's channels reaches the head.
        self.layer5 = DilatedHead(self.inplanes // 2, num_parts)
        self._freeze_batch_norms()

    def _move_strides(self) -> None:
        first = self.layer2[0]
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        # With the stride before the 3 x 3, this one too works at the layer's own resolution.
        for layer, dilation in ((self.layer3, 2), (self.layer4, 4)):
            layer[0].conv2.dilation = layer[0].conv2.padding = (dilation, dilation)

    def _freeze_batch_norms(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and "downsample" not in name:
                module.requires_grad_(False)

    def preprocess(self, images: Tensor) -> Tensor:
        """Network input from RGB images (N, 3, H, W) in [0, 1]."""
        return self.normalisation(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Part logits (N, K, h, w), h = H / 8 + 1 for H a multiple of 8, from preprocessed images (N, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.layer5(x.chunk(2, dim=1)[1])

    def parameter_groups(self, lr: float, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters: the backbone's at ``lr``, the head's at ``head_multiplier`` times that."""
        trained = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        backbone = [parameter for name, parameter in trained if not name.startswith(HEAD)]
        head = [parameter for name, parameter in trained if name.startswith(HEAD)]
        return [
            {"params": backbone, "lr": lr, "multiplier": 1.0},
            {"params": head, "lr": lr * head_multiplier, "multiplier": head_multiplier},
        ]


def build_segmenter(config: Any, num_parts: int) -> Segmenter:
    """A segmenter ready to train.

    Args:
        config: the node ``segmenter``: ``variant``; ``weights``: ``"imagenet"`` (the variant's own), ``"none"`` or the
            path of a ResNet-50 state dict with torchvision's names; ``weights_dir``; and, read with
            ``weights="none"`` alone, ``init``: ``"he"`` or ``"normal"`` (N(0, 0.01), the release's).
        num_parts: K.

    Raises:
        UserError: the weights cannot be had or do not fit.
    """
    segmenter = Segmenter(num_parts, config.variant)
    if config.weights != "none":
        state = pretrained_state(config.weights, RESNET50[config.variant], config.weights_dir, "segmenter.weights")
        copy_by_name(segmenter, state, source=f"segmenter.weights={config.weights}", skip=HEAD)
    elif config.init == "normal":
        for module in segmenter.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
    return segmenter
