"""Two views of a batch whose pixels are to get one cluster in both (IIC, Ji et al., ICCV 2019; AC, Ouali et al., 2020).

The first view is the crop itself. What moves the pixels of the second is undone on what a network says of it, exactly:
mirroring and quarter turns. All random numbers are functions of (seed, step, place in the batch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conf.fields import plain, probability
from datasets.batch import TrainBatch
from datasets.transforms.colour import ColourJitter, draw_jitter, jitter
from utils.seeding import Randomness

TRANSFORMATIONS = ("jitter", "flip", "rotation")


@dataclass
class PixelTransformations(ColourJitter):
    """Keys of ``augmentation``: how strong the transformations are that a method names.

    Attributes:
        flip_probability: of the second view mirrored left to right, where ``flip`` is named.
    """

    flip_probability: float = probability()


@dataclass
class PixelPair:
    """Two views of each of N images of H x W pixels.

    Attributes:
        image: (N, 3, H, W) float, RGB in [0, 1], as cropped.
        other: (N, 3, H, W) float in [0, 1], jittered, then mirrored, then turned.
        infrared, other_infrared: (N, 1, H, W) float in [0, 1], mirrored and turned alike; or None.
        mask: (N, 1, H, W) float, 1 where a pixel of the first view counts.
        mirrored: whether each second view is.
        turns: quarter turns of each second view, counterclockwise.
    """

    image: Tensor
    other: Tensor
    infrared: Tensor | None
    other_infrared: Tensor | None
    mask: Tensor
    mirrored: list[bool]
    turns: list[int]

    def undone(self, maps: Tensor) -> Tensor:
        """Maps (N, C, H, W) of the second view in the frame of the first."""
        return _each(maps, lambda own, place: _mirror(own.rot90(-self.turns[place], (1, 2)), self.mirrored[place]))


@torch.no_grad()
def pixel_pair(
    batch: TrainBatch, augmentation: PixelTransformations, named: Sequence[str], random: Randomness
) -> PixelPair:
    """Draw the second view of each image.

    Args:
        named: those of ``TRANSFORMATIONS`` that are applied; ``jitter`` leaves infrared as it is.
    """
    augmentation = plain(augmentation)
    pixels, infrared = batch.image.float(), batch.infrared
    infrared = None if infrared is None else infrared.float().div(255)
    draws = [rng.random(2) for rng in random.of_each("mirror and turn")]
    mirrored = [bool("flip" in named and drawn[0] < augmentation.flip_probability) for drawn in draws]
    turns = [int(4 * drawn[1]) if "rotation" in named else 0 for drawn in draws]

    def moved(maps: Tensor) -> Tensor:
        return _each(maps, lambda own, place: _mirror(own, mirrored[place]).rot90(turns[place], (1, 2)))

    # Mixed precision would leave the colours with three digits.
    with torch.autocast(pixels.device.type, enabled=False):
        other = pixels
        if "jitter" in named:
            other = jitter(pixels, [draw_jitter(augmentation, rng) for rng in random.of_each("jitter")])
        return PixelPair(
            image=pixels.div(255),
            other=moved(other.div(255)),
            infrared=infrared,
            other_infrared=None if infrared is None else moved(infrared),
            mask=batch.foreground,
            mirrored=mirrored,
            turns=turns,
        )


def _each(maps: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    return torch.stack([function(own, place) for place, own in enumerate(maps)])


def _mirror(maps: Tensor, wanted: bool) -> Tensor:
    return maps.flip(2) if wanted else maps
