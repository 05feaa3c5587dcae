"""Any network that timm has as the backbone of a segmenter, under one of two heads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number, numbers, path
from models.backbone import Backbone
from models.inputs import require_pictures
from models.segmenters.base import num_parts_of
from models.segmenters.head import DilatedHead, convolution_head
from models.weights import copy_by_name

HEADS = {"deeplab": DilatedHead, "convolution": convolution_head}
OWN = "backbone.model."  # before the names of the backbone in checkpoints of this project


@dataclass
class BackboneOptions:
    """Keys of the node ``segmenter`` that say which network is below the head.

    Attributes:
        network: timm's name of the backbone.
        weights: ``"hub"`` (timm's), ``"none"`` (random), ``package:NAME``, or the path or URL of a file; the path of a
            run of this project starts from that one's segmenter, head included where K is the same.
        weights_dir: of downloads.
        layer: index or name of the layer whose map the head sees: a stage, or a transformer's block; ``-1``: the last.
        output_stride: pixels of a cell of a convolutional network's map; null: as the network has it.
        frozen: index or name of a layer that keeps its pretrained weights, with all before it; null: all are trained.
        batch_norm: ``"fixed"``: normalises by the statistics of the pretraining; ``"trained"``: by the batch, but in
            frozen layers. Scale and shift are learnt in both.
        mean, deviation: of the network's inputs, R, G, B in [0, 1]; null: those of timm's weights.
    """

    name: str = MISSING
    network: str = MISSING
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    layer: str = MISSING
    output_stride: int | None = number(low=1)
    frozen: str | None = MISSING
    batch_norm: str = choice("fixed", "trained")
    mean: list[float] | None = numbers(3)
    deviation: list[float] | None = numbers(3, above=0)


@dataclass
class Options(BackboneOptions):
    """Keys of the node ``segmenter``.

    Attributes:
        head: ``"deeplab"`` (four dilated 3 x 3 convolutions) or ``"convolution"`` (one).
    """

    head: str = choice(*HEADS)


class Segmenter(nn.Module):
    """Part logits from images.

    Args:
        options: the node ``segmenter``; its weights are not read.
        num_parts: K.
        has_background: one channel more, the first, is the background's.
    """

    def __init__(self, options: DictConfig, num_parts: int, has_background: bool = False) -> None:
        super().__init__()
        self.num_parts, self.has_background = num_parts, has_background
        self.fixed_statistics = options.batch_norm == "fixed"
        self.backbone = Backbone(
            options.network, [options.layer], "segmenter", output_stride=options.output_stride, frozen=options.frozen
        )
        self.normalisation = self.backbone.normalisation(options.mean, options.deviation)
        self.head = self.new_head(options, self.backbone.channels[0], num_parts + has_background)

    @staticmethod
    def new_head(options: DictConfig, in_channels: int, out_channels: int) -> nn.Module:
        """What gives scores (N, ``out_channels``, h, w) of the backbone's map."""
        return HEADS[options.head](in_channels, out_channels)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                is_frozen = module.affine and not module.weight.requires_grad
                module.train(mode and not self.fixed_statistics and not is_frozen)
        return self

    def preprocess(self, images: Tensor) -> Tensor:
        """Network input from RGB images (N, 3, H, W) in [0, 1]; see ``models.inputs`` for what is refused."""
        require_pictures(images, self)
        return self.normalisation(images)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K [+ 1], h, w), a cell for each of the backbone's, from preprocessed images (N, 3, H, W)."""
        return self.head(self.backbone(inputs)[0])

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``: the head learns ``head_multiplier`` times as fast."""
        backbone = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        head = [*self.head.parameters()]
        groups = [{"params": backbone, "multiplier": 1.0}, {"params": head, "multiplier": head_multiplier}]
        return [group for group in groups if group["params"]]


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    return with_weights(Segmenter(options, num_parts, has_background), options)


def with_weights(segmenter: Segmenter, options: DictConfig) -> Segmenter:
    """The same with the pretrained weights of its options: of the backbone, or of a run of this project.

    Raises:
        UserError: they cannot be had or do not fit.
    """
    if options.weights != "none":
        source = f"segmenter.weights={options.weights}"
        state = segmenter.backbone.read(options.weights, options.weights_dir)
        if any(OWN in name for name in state):
            copy_by_name(segmenter, state, source, head="head.")
        else:
            new = [f"head.{name}" for name in segmenter.head.state_dict()]
            copy_by_name(segmenter.backbone.model, state, source, beside=new)
    return segmenter


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    names = "head.weight", "head.conv2d_list.0.weight"
    return Segmenter(options, num_parts_of(options, state, has_background, *names, shape="C, 3, 3"), has_background)
