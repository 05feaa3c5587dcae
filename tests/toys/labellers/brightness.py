"""A baseline that takes what is bright for the first part, and the rest for the second."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from torch import Tensor

from conf.fields import number
from evaluation.labellers.base import Labeller


@dataclass
class Options:
    threshold: int = number(low=0, high=255)


def build(options: Options, config: DictConfig, num_parts: int, device: torch.device) -> "Brightness":
    return Brightness(options.threshold, num_parts)


class Brightness(Labeller):
    title = "brightness"

    def __init__(self, threshold: int, num_parts: int) -> None:
        self.threshold, self.num_parts = threshold, num_parts

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        bright = images.float().mean(1, keepdim=True) - self.threshold
        never = torch.full_like(bright, -1000.0)
        return torch.cat([bright, -bright, *[never] * (self.num_parts - 2)], dim=1)
