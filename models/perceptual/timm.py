"""Features of any network that timm has: convolutional, or a vision transformer such as DINO, DINOv2 and DINOv3."""

from dataclasses import dataclass

from omegaconf import DictConfig

from conf.fields import choice, number, numbers
from models.backbone import Backbone
from models.perceptual import base
from models.weights import copy_by_name


@dataclass
class Options(base.Options):
    """Keys of the node ``perceptual``; ``layers`` are indices or names, those of transformers blocks.

    Attributes:
        output_stride: pixels of a cell of the last map of a convolutional network; null: as the network has it.
        enlarge: how many times larger than the crops the network sees them: its maps are finer, and cost the square.
        facet: of transformers: ``"token"``, or ``"key"``, ``"query"``, ``"value"`` of the attention.
        mean, deviation: of the network's inputs, R, G, B in [0, 1]; null: those of timm's weights.
    """

    output_stride: int | None = number(low=1)
    enlarge: float = number(above=0)
    facet: str = choice("token", "key", "query", "value")
    mean: list[float] | None = numbers(3)
    deviation: list[float] | None = numbers(3, above=0)


def build(options: DictConfig) -> base.PerceptualNetwork:
    """See ``models.perceptual.build``."""
    backbone = Backbone(
        options.network,
        list(options.layers or ()),
        "perceptual",
        facet=options.facet,
        output_stride=options.output_stride,
        enlarge=options.enlarge,
    )
    if options.weights != "none":
        state = backbone.read(options.weights, options.weights_dir)
        copy_by_name(backbone.model, state, f"perceptual.weights={options.weights}")
    return base.PerceptualNetwork(backbone, backbone.normalisation(options.mean, options.deviation), options)
