"""A method that rebuilds noisy pictures from parts: its colours and a decoder are trained beside the predictor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch
from models.initialisation import seeded_initialisation
from models.methods import base
from utils.seeding import Randomness


@dataclass
class Options:
    name: str = MISSING
    colour_rate: float = number(above=0)


@dataclass
class LossWeights:
    rebuilding: float = number(low=0)
    colours: float = number(low=0)


@dataclass
class Augmentation:
    noise: float = number(low=0, high=1)


class Network(nn.Conv2d):
    """One convolution to K part logits."""

    has_background = False

    def __init__(self, num_parts: int) -> None:
        super().__init__(3, num_parts, kernel_size=3, padding=1)
        self.num_parts = num_parts

    def preprocess(self, images: Tensor) -> Tensor:
        return images - 0.5


class Method(base.Method):
    needs_masks = False
    protocols = ("part_maps", "coverage")

    def __init__(self, predictor: Network, options: DictConfig, augmentation: DictConfig) -> None:
        super().__init__()
        self.predictor, self.options, self.augmentation = predictor, options, augmentation
        self.colours = nn.Parameter(torch.rand(predictor.num_parts, 3))
        self.decoder = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
        self.register_buffer("pictures_seen", torch.zeros((), dtype=torch.long))

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        with seeded_initialisation(config.seed, "toy"):
            return cls(Network(config.num_parts), config.method, config.augmentation)

    @classmethod
    def predictor_of(cls, config: DictConfig, state: Mapping[str, Tensor]) -> Network:
        return Network(len(state["weight"]))

    def views(self, batch: TrainBatch, random: Randomness) -> tuple[Tensor, Tensor]:
        images = batch.image.float() / 255
        noise = torch.stack([torch.from_numpy(rng.normal(size=images.shape[1:])) for rng in random.of_each("noise")])
        return images, images + self.augmentation.noise * noise.float().to(images.device)

    def forward(self, views: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, noisy = views
        self.pictures_seen += len(images)
        parts = self.full_size_logits(self.predictor.preprocess(noisy)).softmax(1)
        rebuilt = self.decoder(torch.einsum("nkhw,kc->nchw", parts, self.colours))
        return {"rebuilding": (rebuilt - images).square().mean(), "colours": self.colours.square().mean()}

    def parameter_groups(self, optimizer: DictConfig) -> list[dict[str, Any]]:
        return [
            {"params": list(self.predictor.parameters())},
            {"params": list(self.decoder.parameters()), "multiplier": 0.5},
            {"params": [self.colours], "constant_rate": self.options.colour_rate, "clip": "colours"},
        ]
