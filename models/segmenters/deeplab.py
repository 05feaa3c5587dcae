"""DeepLab-v2 on ResNet-50, output stride 8: the paper's segmenter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import MISSING, DictConfig
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from conf.fields import choice, path
from models.inputs import require_pictures
from models.norms import BatchNorm, count_batches
from models.segmenters.base import num_parts_of
from models.segmenters.head import DilatedHead
from models.weights import RESNET50, copy_by_name, pretrained_state

Variant = Literal["caffe", "torchvision"]

HEAD = "layer5."


@dataclass
class Options:
    """Keys of the node ``segmenter``.

    Attributes:
        variant: ``"caffe"`` is the paper's; see :class:`Segmenter`.
        weights: ``"imagenet"`` (the variant's own), ``"none"``, or the path or URL of a ResNet-50 with torchvision's
            names; the path of a run of this project starts from that one's segmenter, head included where K is the
            same.
        weights_dir: looked in before a download.
        init: of new weights, read with ``weights="none"`` alone: ``"he"`` or ``"normal"`` (N(0, 0.01), the release's).
    """

    name: str = MISSING
    variant: str = choice(*RESNET50)
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    init: str = choice("he", "normal")


class Segmenter(ResNet):
    """Part logits from images; state-dict names and shapes are those of the published checkpoints.

    Scale and shift of every batch norm are frozen except in the 1 x 1 projections; running statistics are not, so in
    train mode the network normalises by the batch (release).

    Args:
        num_parts: K.
        has_background: one channel more, the first, is the background's; the published networks have none.
        variant: ``"caffe"``, the paper's network: stride 2 of layer2 on its first 1 x 1 convolution, ImageNet means
            subtracted from 0..255; or ``"torchvision"``: strides, dilations and normalisation of torchvision's weights.
    """

    def __init__(self, num_parts: int, variant: Variant = "caffe", has_background: bool = False) -> None:
        dilated = [False, True, True]
        super().__init__(Bottleneck, [3, 4, 6, 3], replace_stride_with_dilation=dilated, norm_layer=BatchNorm)
        del self.avgpool, self.fc
        self.num_parts, self.has_background = num_parts, has_background
        self.normalisation = RESNET50[variant].normalisation()
        self.maxpool.ceil_mode = True
        if variant == "caffe":
            self._move_strides()
        # Only the second half of layer4's channels reaches the head.
        self.layer5 = DilatedHead(self.inplanes // 2, num_parts + has_background)
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
        """Network input from RGB images (N, 3, H, W) in [0, 1]; see ``models.inputs`` for what is refused."""
        require_pictures(images, self)
        return self.normalisation(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K [+ 1], h, w), h = H / 8 + 1 for H a multiple of 8, from preprocessed images (N, 3, H, W)."""
        count_batches(self)
        x = self.maxpool(self.relu(self.bn1(self.conv1(inputs))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.layer5(x.chunk(2, dim=1)[1])

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``: the head learns ``head_multiplier`` times as fast."""
        trained = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        backbone = [parameter for name, parameter in trained if not name.startswith(HEAD)]
        head = [parameter for name, parameter in trained if name.startswith(HEAD)]
        return [{"params": backbone, "multiplier": 1.0}, {"params": head, "multiplier": head_multiplier}]


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    segmenter = Segmenter(num_parts, options.variant, has_background)
    if options.weights != "none":
        state = pretrained_state(options.weights, RESNET50[options.variant], options.weights_dir, "segmenter.weights")
        copy_by_name(segmenter, state, f"segmenter.weights={options.weights}", head=HEAD)
    elif options.init == "normal":
        for layer in segmenter.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
    return segmenter


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    hint = "Expected are the published checkpoints or those that train.py writes."
    name = f"{HEAD}conv2d_list.0.weight"
    num_parts = num_parts_of(options, state, has_background, name, shape="C, 3, 3", hint=hint)
    return Segmenter(num_parts, options.variant, has_background)
