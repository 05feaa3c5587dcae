"""Two colour views and one warp of a batch (paper, section 3; numbers from the release).

All random numbers are functions of (seed, step, place in the batch): they are drawn on the host and uploaded at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conf.fields import plain
from datasets.batch import TrainBatch
from datasets.transforms.colour import ColourJitter, draw_jitter, jitter
from datasets.transforms.warp import Warp, draw_control_points, sampling_grid
from utils.seeding import Randomness


@dataclass
class JitterAndWarp(ColourJitter, Warp):
    """The keys of ``augmentation`` of methods that learn from such pairs."""


@dataclass
class Pair:
    """Two views of each of N images of H x W pixels.

    Attributes:
        image: (N, 3, H, W) float, RGB in [0, 1], as cropped.
        jittered: (N, 3, H, W) float in [0, 1], one colour jitter of it; a method that wants its first view clean takes
            ``image`` instead.
        jittered_to_warp: (N, 3, H, W) float in [0, 1], another jitter, not yet warped: the warp comes after the
            network's preprocessing, since its border is zero there.
        foreground: (N, 1, H, W) float, 1 on the object and 0 elsewhere.
        grid: (N, H, W, 2) float, for each pixel of the warped image the place (x, y) it comes from, in [-1, 1] from the
            first to the last pixel's centre: for ``grid_sample(..., align_corners=True)``.
    """

    image: Tensor
    jittered: Tensor
    jittered_to_warp: Tensor
    foreground: Tensor
    grid: Tensor


@torch.no_grad()
def jittered_pair(batch: TrainBatch, augmentation: JitterAndWarp, random: Randomness) -> Pair:
    """Draw two colour jitters and a warp for each image."""
    augmentation = plain(augmentation)
    device, (count, _, height, width) = batch.image.device, batch.image.shape
    draws = [draw_jitter(augmentation, rng) for view in (0, 1) for rng in random.of_each(f"jitter {view}")]
    moved = [draw_control_points(augmentation, rng) for rng in random.of_each("warp")]
    # Mixed precision would leave the colours with three digits.
    with torch.autocast(device.type, enabled=False):
        pixels = batch.image.float()
        jittered = jitter(pixels.repeat(2, 1, 1, 1), draws).div_(255)
        return Pair(
            image=pixels.div(255),
            jittered=jittered[:count],
            jittered_to_warp=jittered[count:],
            foreground=batch.foreground,
            grid=sampling_grid(np.stack(moved), height, width, device),
        )
