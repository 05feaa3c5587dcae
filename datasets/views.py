"""Two colour views and one warp of a batch, on the device the batch is on (paper, section 3; numbers from the release).

All random numbers are functions of (seed, step, place in the batch): they are drawn on the host and uploaded at once.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import kornia
import numpy as np
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from datasets.batch import TrainBatch, to_device
from utils.seeding import generator

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_NOTHING = -1


@dataclass
class Views:
    """What the losses see of one batch. N images of H x W pixels.

    Attributes:
        image: (N, 3, H, W) float, RGB in [0, 1], as cropped.
        jittered: (N, 3, H, W) float in [0, 1], one colour jitter of it.
        jittered_to_warp: (N, 3, H, W) float in [0, 1], another jitter, not yet warped: the warp comes after the
            network's preprocessing, since its border is zero there.
        lab: (N, 3, H, W) float, the clean image in CIE Lab (D65), L in 0..100.
        foreground: (N, 1, H, W) float, 1 on the object and 0 elsewhere.
        grid: (N, H, W, 2) float, for each pixel of the warped image the place (x, y) it comes from, in [-1, 1] from the
            first to the last pixel's centre: for ``grid_sample(..., align_corners=True)``.
        step: the update, from 0.
    """

    image: Tensor
    jittered: Tensor
    jittered_to_warp: Tensor
    lab: Tensor
    foreground: Tensor
    grid: Tensor
    step: int


@torch.no_grad()
def make_views(batch: TrainBatch, augmentation: Any, seed: int) -> Views:
    """Draw two colour jitters and a warp for each image.

    Args:
        augmentation: config node with jitter_probability, brightness, contrast, saturation, hue, greyscale_probability,
            control_points (a side), noise, scale (min, max), rotation (degrees), translation; see conf/augmentation.
        seed: of the run.
    """
    device, (count, _, height, width) = batch.image.device, batch.image.shape
    places = range(batch.first_place, batch.first_place + count)
    # Mixed precision, and TensorFloat-32 inside a float32 convolution, would leave Lab and the grid with three digits.
    with torch.autocast(device.type, enabled=False):
        pixels = batch.image.float()
        generators = [generator(seed, f"jitter {view}", batch.step, place) for view in (0, 1) for place in places]
        draws = [draw_jitter(augmentation, rng) for rng in generators]
        jittered = jitter(pixels.repeat(2, 1, 1, 1), draws).div_(255)
        moved = [draw_control_points(augmentation, generator(seed, "warp", batch.step, place)) for place in places]
        image = pixels.div(255)
        return Views(
            image=image,
            jittered=jittered[:count],
            jittered_to_warp=jittered[count:],
            lab=rgb_to_lab(image.double()).float(),
            foreground=batch.foreground,
            grid=sampling_grid(np.stack(moved), height, width, device),
            step=batch.step,
        )


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


def draw_jitter(augmentation: Any, rng: np.random.Generator) -> Jitter:
    """Draw one image's colour changes; the arguments' ranges are torchvision's ``ColorJitter``'s."""
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


def rgb_to_lab(image: Tensor) -> Tensor:
    """CIE Lab (D65) of RGB images (N, 3, H, W) in [0, 1], L in 0..100, as scikit-image has it.

    kornia's makes its constants on the host at each call, and the host would wait for the device to take them.
    """
    linear = kornia.color.rgb_to_linear_rgb(image)
    xyz = (_relative_xyz(image.device, image.dtype) @ linear.flatten(2)).view_as(linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


@lru_cache(maxsize=4)
def _relative_xyz(device: torch.device, dtype: torch.dtype) -> Tensor:
    """(3, 3): XYZ of linear sRGB, relative to the white of D65 (2 degrees)."""
    xyz = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
    white = (0.95047, 1.0, 1.08883)
    return (torch.tensor(xyz, dtype=dtype) / torch.tensor(white, dtype=dtype)[:, None]).to(device)


def control_points(side: int) -> np.ndarray:
    """The ``side * side`` points of a regular grid on [-1, 1] x [-1, 1], (P, 2)."""
    line = np.linspace(-1, 1, side)
    return np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)


def draw_control_points(augmentation: Any, rng: np.random.Generator) -> np.ndarray:
    """Draw where the control points of one image's sampling grid go: (P, 2)."""
    points = control_points(augmentation.control_points)
    noise = rng.uniform(-1, 1, points.shape) * augmentation.noise
    scale = rng.uniform(*augmentation.scale)
    angle = np.deg2rad(rng.uniform(-1, 1) * augmentation.rotation)
    translation = rng.uniform(-1, 1, 2) * augmentation.translation
    return move_control_points(points, noise, scale, angle, translation)


def move_control_points(
    points: np.ndarray, noise: np.ndarray, scale: float, angle: float, translation: np.ndarray
) -> np.ndarray:
    """s R(a) (p + noise) + t of the points (P, 2); ``angle`` in radians. The map goes from output to source."""
    cos, sin = math.cos(angle), math.sin(angle)
    return scale * (points + noise) @ np.array([[cos, sin], [-sin, cos]]) + translation


def sampling_grid(moved: np.ndarray, height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Thin-plate interpolation (r^2 log r, exact at the points) between moved control points.

    Args:
        moved: (N, P, 2), where each point of a regular grid goes.

    Returns:
        (N, H, W, 2) float32, corner pixels' centres at +-1 (align_corners=True).
    """
    weights = _thin_plate_weights(math.isqrt(moved.shape[1]), height, width, str(device))
    # float64 for the same reason; the product is small.
    grid = weights @ to_device(moved.astype(np.float64), torch.device(device))
    return grid.view(-1, height, width, 2).float()


@lru_cache(maxsize=4)
def _thin_plate_weights(side: int, height: int, width: int, device: str) -> Tensor:
    """(H * W, P): the interpolation is linear in the values at the points, so one matrix serves every warp."""
    points = control_points(side)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    pixels = np.stack([x, y], -1).reshape(-1, 2)
    weights = RBFInterpolator(points, np.eye(len(points)), kernel="thin_plate_spline", degree=1)(pixels)
    return torch.from_numpy(weights).to(device)
