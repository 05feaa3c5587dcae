"""Colour jitter, image by image, as ``ColorJitter`` and greyscale of torchvision do it on 8-bit pictures."""

import math
from dataclasses import dataclass

import kornia
import numpy as np
from torch import Tensor

from conf.fields import number, probability
from datasets.batch import to_device

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_NOTHING = -1


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

    Args:
        pixels: (N, 3, H, W) float with whole numbers 0..255; overwritten.
        draws: one per image.

    Returns:
        (N, 3, H, W) float with whole numbers 0..255.
    """
    steps = np.array([draw.order + (_NOTHING,) * (4 - len(draw.order)) for draw in draws])
    greyscale = np.array([draw.greyscale for draw in draws])
    # One upload; the images that share an operation in a step are worked on together.
    parameters = [np.argsort(steps, axis=0, kind="stable").T, np.argsort(~greyscale, kind="stable")[None]]
    upload = np.concatenate([*parameters, np.array([draw.factors for draw in draws]).T]).astype(np.float32)
    uploaded = to_device(upload, pixels.device)
    indices, factors = uploaded[:5].long(), uploaded[5:, :, None, None, None]
    for step in range(4):
        start = int((steps[:, step] == _NOTHING).sum())
        for operation, function in enumerate(_OPERATIONS):
            stop = start + int((steps[:, step] == operation).sum())
            if stop > start:
                chosen = indices[step, start:stop]
                changed = function(pixels.index_select(0, chosen), factors[operation].index_select(0, chosen))
                pixels.index_copy_(0, chosen, changed)
            start = stop
    grey = indices[4, : int(greyscale.sum())]
    if len(grey):
        pixels.index_copy_(0, grey, _grey(pixels.index_select(0, grey)).expand(-1, 3, -1, -1))
    return pixels


def _grey(pixels: Tensor) -> Tensor:
    """Luma (N, 1, H, W), rounded as an 8-bit picture's."""
    red, green, blue = pixels.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round_()


def _blend(pixels: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    # An 8-bit picture drops the fraction.
    return (factor * pixels + (1 - factor) * other).clamp_(0, 255).floor_()


def _brightness(pixels: Tensor, factor: Tensor) -> Tensor:
    return _blend(pixels, 0.0, factor)


def _contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    return _blend(pixels, _grey(pixels).mean((1, 2, 3), keepdim=True).round(), factor)


def _saturation(pixels: Tensor, factor: Tensor) -> Tensor:
    return _blend(pixels, _grey(pixels), factor)


def _hue(pixels: Tensor, turns: Tensor) -> Tensor:
    hsv = kornia.color.rgb_to_hsv(pixels / 255)
    hsv[:, :1] = (hsv[:, :1] + 2 * math.pi * turns) % (2 * math.pi)
    return kornia.color.hsv_to_rgb(hsv).mul_(255).round_().clamp_(0, 255)


_OPERATIONS = (_brightness, _contrast, _saturation, _hue)  # in the order of BRIGHTNESS, CONTRAST, SATURATION, HUE
