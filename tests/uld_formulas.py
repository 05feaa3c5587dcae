"""The losses of ULD as their formulas stand: image by image, landmark by landmark, pixel by pixel."""

import math

import torch
from torch import Tensor


def places(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """(H, W, 2): x and y of each pixel's centre in (0, 1)."""
    rows, columns = torch.arange(height, dtype=dtype), torch.arange(width, dtype=dtype)
    y, x = torch.meshgrid((rows + 0.5) / height, (columns + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=2)


def landmark(found: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (2,) and deviation of one map (H, W)."""
    q = (found / found.sum())[..., None]
    position = places(*found.shape, found.dtype)
    centre = (q * position).sum((0, 1))
    return centre, (q * (position - centre) ** 2).sum((0, 1)).sqrt().mean()


def landmarks(maps: Tensor) -> tuple[Tensor, Tensor]:
    found = [[landmark(own) for own in image] for image in maps]
    centres = torch.stack([torch.stack([centre for centre, _ in image]) for image in found])
    return centres, torch.stack([torch.stack([deviation for _, deviation in image]) for image in found])


def gaussian(centre: Tensor, deviation: float | Tensor, height: int, width: int) -> Tensor:
    squares = ((places(height, width, centre.dtype) - centre) ** 2).sum(2)
    return torch.exp(-squares / (2 * deviation**2))


def soft_masks(centres: Tensor, deviations: Tensor, height: int, width: int) -> Tensor:
    images = []
    for of_image, own in zip(centres, deviations, strict=True):
        maps = [torch.full((height, width), 1 / (height * width), dtype=centres.dtype)]
        for centre, deviation in zip(of_image, own, strict=True):
            peak = 1 / (2 * math.pi * deviation**2 * height * width)
            maps.append(peak * gaussian(centre, deviation, height, width))
        images.append(torch.stack(maps) / sum(maps))
    return torch.stack(images)


def concentration(deviations: Tensor) -> Tensor:
    entropies = 1 + math.log(2 * math.pi) + 2 * deviations.log()  # of a Gaussian of this deviation in two dimensions
    return sum(entropy.exp() for entropy in entropies.flatten()) / len(deviations)


def separation(centres: Tensor, width: float) -> Tensor:
    total = torch.zeros((), dtype=centres.dtype)
    for image in centres:
        for i, a in enumerate(image):
            for j, b in enumerate(image):
                if i != j:
                    total = total + torch.exp(-((a - b) ** 2).sum() / (2 * width**2))
    return total / len(centres)


def come_from(place: Tensor, grid: Tensor) -> Tensor:
    """Where a place (2,) in (0, 1) of a warped picture comes from, by the four pixels around it of a grid (H, W, 2)."""
    height, width = grid.shape[:2]
    x, y = float(place[0].detach()) * width - 0.5, float(place[1].detach()) * height - 0.5
    left, top = min(max(math.floor(x), 0), max(width - 2, 0)), min(max(math.floor(y), 0), max(height - 2, 0))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = place[0] * width - 0.5 - left, place[1] * height - 0.5 - top
    upper = (1 - a) * grid[top, left] + a * grid[top, right]
    lower = (1 - a) * grid[bottom, left] + a * grid[bottom, right]
    corners = (1 - b) * upper + b * lower  # in [-1, 1] at the corner pixels' centres
    sides = torch.tensor([width, height], dtype=grid.dtype)
    return ((corners + 1) / 2 * (sides - 1) + 0.5) / sides


def equivariance(centres: Tensor, of_warped: Tensor, grid: Tensor) -> Tensor:
    total = torch.zeros((), dtype=centres.dtype)
    for image, warped, own in zip(centres, of_warped, grid, strict=True):
        for a, b in zip(image, warped, strict=True):
            total = total + ((2 * come_from(b, own) - 1 - (2 * a - 1)) ** 2).sum()
    return total / len(centres)


def reconstruction(rebuilt: Tensor, image: Tensor) -> Tensor:
    return sum(0.5 * (a - b) ** 2 for a, b in zip(rebuilt.flatten(), image.flatten(), strict=True)) / len(image)


def perceptual_reconstruction(rebuilt: list[Tensor], features: list[Tensor]) -> Tensor:
    shares = [
        ((a - b) ** 2).sum() / ((b**2).sum() + 1e-8)
        for layer, of_picture in zip(rebuilt, features, strict=True)
        for a, b in zip(layer, of_picture, strict=True)
    ]
    return sum(shares) / len(shares)
