"""Colour jitter, image by image, as ``ColorJitter`` and greyscale of torchvision do it on 8-bit pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from conf.fields import number, probability
from datasets.batch import to_device

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_NOTHING, _GREY = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)  # shares, see _blend


@dataclass
class ColourJitter:
    """Keys of ``augmentation``, in the units of torchvision's ``ColorJitter``."""

    jitter_probability: float = probability()
    brightness: float = number(low=0, high=1)
    contrast: float = number(low=0, high=1)
    saturation: float = number(low=0, high=1)
    hue: float = number(low=0, high=0.5)
    greyscale_probability: float = probability()


@dataclass(frozen=True)
class Jitter:
    """One image's colour changes.

    Attributes:
        order: the operations, first to last, each once or left out.
        factors: of brightness, contrast, saturation (1 changes nothing), and hue in turns (0 changes nothing).
        greyscale: whether the colour is taken away at the end.
    """

    order: tuple[int, ...]
    factors: tuple[float, float, float, float]
    greyscale: bool


def draw_jitter(augmentation: ColourJitter, rng: np.random.Generator) -> Jitter:
    """Draw one image's colour changes."""
    # Every number is drawn whatever the others turn out to be: changing one probability leaves the rest in place.
    applied, grey = rng.random(2)
    order = rng.permutation(4)
    amplitudes = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    factors = rng.uniform(-1, 1, 4) * amplitudes + (1, 1, 1, 0)
    factors[:HUE] = factors[:HUE].clip(min=0)
    kept = [int(operation) for operation in order if amplitudes[operation] > 0]
    return Jitter(
        order=tuple(kept) if applied < augmentation.jitter_probability else (),
        factors=tuple(factors.tolist()),
        greyscale=bool(grey < augmentation.greyscale_probability),
    )


def jitter(pixels: Tensor, draws: list[Jitter]) -> Tensor:
    """Change the colours of each image as ``ColorJitter`` and greyscale do on 8-bit pictures.

    All images go through the same operators, whatever they have drawn: the blends before the hue, the hue, and those
    after it. What an image has not drawn gives back its pixels to the bit.

    Args:
        pixels: (N, 3, H, W) float with whole numbers 0..255.
        draws: one per image.

    Returns:
        (N, 3, H, W) float with whole numbers 0..255.
    """
    # One upload: for each image three blends, the hue and four blends, a number for each channel or share.
    uploaded = to_device(np.array([_operations(draw) for draw in draws], np.float32), pixels.device)
    for place, numbers in enumerate(uploaded[..., None, None].unbind(1)):
        pixels = _turn(pixels, numbers) if place == 3 else _blend(pixels, numbers)
    return pixels


def _operations(draw: Jitter) -> list[Sequence[float]]:
    brightness, contrast, saturation, turns = np.float32(draw.factors)
    shares = ((brightness, 0, 0), (contrast, 1 - contrast, 0), (saturation, 0, 1 - saturation))
    place = draw.order.index(HUE) if HUE in draw.order else len(draw.order)
    before = [shares[operation] for operation in draw.order[:place]]
    after = [shares[operation] for operation in draw.order[place + 1 :]] + [_GREY] * draw.greyscale
    turns = turns if HUE in draw.order else 0
    hue = [6 * turns + corner for corner in (5, 3, 1)]
    return [*before, *[_NOTHING] * (3 - len(before)), hue, *after, *[_NOTHING] * (4 - len(after))]


def _blend(pixels: Tensor, shares: Tensor) -> Tensor:
    """The sum of the picture, its mean grey and its grey, with the three shares (N, 3, 1, 1) of each image."""
    grey = (pixels * _luma(pixels.device)).sum(1, keepdim=True).round_()
    mean = grey.mean((1, 2, 3), keepdim=True).round_()
    of_picture, of_mean, of_grey = shares.split(1, dim=1)
    # An 8-bit picture drops the fraction.
    return (of_picture * pixels + (of_mean * mean + of_grey * grey)).clamp_(0, 255).floor_()


def _turn(pixels: Tensor, corners: Tensor) -> Tensor:
    """Another hue, with saturation and value of HSV as they are.

    With the hue h in sextants, 0 at red, a channel is max - (max - min) min(1, max(0, min(k, 4 - k))) for
    k = (h + c) mod 6, c = 5, 3, 1 for red, green, blue.

    Args:
        corners: (N, 3, 1, 1), c and the turn in sextants.
    """
    largest, channel = pixels.max(1, keepdim=True)
    spread = largest - pixels.amin(1, keepdim=True)
    differences = pixels.roll(-1, 1) - pixels.roll(-2, 1)  # of the two other channels
    # In a grey pixel they are 0, and so is whatever its hue is taken times.
    sextants = differences.gather(1, channel) / spread.clamp(min=1) + 2 * channel
    k = (sextants + corners) % 6
    return (largest - spread * torch.minimum(k, 4 - k).clamp_(0, 1)).round_()


@lru_cache(maxsize=4)
def _luma(device: torch.device) -> Tensor:
    """(3, 1, 1): what the channels add to an 8-bit picture's grey."""
    return torch.tensor((0.299, 0.587, 0.114), device=device)[:, None, None]
