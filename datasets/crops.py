"""Crops of samples: squares around the object, as the release cuts CUB and PASCAL-Part, and whole pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from datasets.sample import Sample
from utils.errors import UserError

LARGE = 64 * 2**20  # bytes of a picture whose floats are not to be in memory all at once
LONGEST = 50  # sides: no picture, and as the network's input it would not fit into memory


def square_box(box: np.ndarray, padding: float, jitter: float = 0.0, draws: np.ndarray | None = None) -> np.ndarray:
    """The square to cut out around an object.

    Each side moves out by ``padding + jitter * draw`` of the box's size along that axis and is rounded to whole pixels;
    the shorter direction is then widened about its centre.

    Args:
        box: (x0, y0, x1, y1), zero-based, both corners inclusive.
        padding: share of the box's size, 0.05 in the release.
        jitter: largest change of the padding, a share of the box's size, 0.05 in the release.
        draws: left, top, right, bottom in [-1, 1]; zeros when None.

    Returns:
        (x0, y0, x1, y1) int, inclusive, ``x1 - x0 == y1 - y0``; it may reach past the picture.
    """
    draws = np.zeros(4) if draws is None else draws
    width, height = box[2:] - box[:2] + 1
    outwards = (padding + jitter * draws) * np.array([-width, -height, width, height])
    box = np.rint(box + outwards).astype(int)
    sides = np.maximum(box[2:] - box[:2] + 1, 1)
    corner = box[:2] - np.rint((sides.max() - sides) / 2).astype(int)
    return np.concatenate([corner, corner + sides.max() - 1])


def reach(box: np.ndarray, padding: float, jitter: float) -> np.ndarray:
    """The smallest box around all that :func:`square_box` can give, and a pixel more.

    Args:
        box, padding, jitter: as there.

    Returns:
        (x0, y0, x1, y1) int, inclusive; it may reach past the picture.
    """
    # But for rounding, the left and top sides are concave in the draws, and the others convex: corners are enough.
    corners = (np.array(draws) for draws in product((-1, 1), repeat=4))
    squares = np.array([square_box(box, padding, jitter, draws) for draws in corners])
    return np.concatenate([squares[:, :2].min(0) - 1, squares[:, 2:].max(0) + 1])


def crop(sample: Sample, box: np.ndarray, size: int) -> Sample:
    """Cut a square out and resize it to ``size`` x ``size``.

    Outside the picture the picture is 1 (on the scale 0..255, as in the release) and masks are 0. The picture is
    resized by OpenCV, bilinear, fractions cut off as in the release, and infrared with it; masks and label maps take
    the nearest pixel. Keypoints and the object's box follow; hidden keypoints stay at (0, 0).

    Args:
        box: (x0, y0, x1, y1) int, inclusive, square.
    """
    corner, scale = box[:2], size / (box[2] - box[0] + 1)

    def resized(labels: np.ndarray, rules: Mapping[str, Any]) -> np.ndarray:
        found = _cut(labels, box, rules["outside"])
        if rules.get("bilinear") == "always":
            return _resized_as_released(found, size)
        return cv2.resize(found, (size, size), interpolation=cv2.INTER_NEAREST)

    return replace(
        sample,
        image=_resized_as_released(_cut(sample.image, box, 1), size),
        **_labels(sample, resized),
        **_moved(sample, corner, scale),
    )


def _labels(sample: Sample, change: Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]) -> dict[str, np.ndarray]:
    """The masks and label maps that a sample has, changed; ``change`` gets the labels and their field's metadata."""
    found = ((spec, getattr(sample, spec.name)) for spec in fields(sample) if "outside" in spec.metadata)
    return {spec.name: change(labels, spec.metadata) for spec, labels in found if labels is not None}


def _resized_as_released(pixels: np.ndarray, size: int) -> np.ndarray:
    """In floats, of which fractions are cut off (OpenCV would round bytes); of large pictures channel by channel.

    The release has doubles, for twice the time: of ten thousand values about one is one level off.
    """
    channels = [pixels] if pixels.nbytes < LARGE else cv2.split(pixels)
    kind = np.promote_types(pixels.dtype, np.float32)
    floats = (cv2.resize(channel.astype(kind), (size, size), interpolation=cv2.INTER_LINEAR) for channel in channels)
    resized = [channel.astype(np.uint8) for channel in floats]
    return resized[0] if len(resized) == 1 else cv2.merge(resized)


def _moved(sample: Sample, corner: np.ndarray, scale: np.ndarray | float) -> dict[str, np.ndarray | None]:
    """Keypoints and box of a sample in a picture that starts at ``corner`` (x, y) and is ``scale`` times as large."""
    keypoints, box = sample.keypoints, sample.box
    if keypoints is not None:
        keypoints = keypoints.copy()
        keypoints[:, :2] = (keypoints[:, :2] - corner) * scale * keypoints[:, 2:]
    if box is not None:
        box = (box - np.tile(corner, 2)) * np.resize(scale, 4)
    return {"keypoints": keypoints, "box": box}


def _cut(pixels: np.ndarray, box: np.ndarray, outside: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    height, width = pixels.shape[:2]
    if x0 >= 0 and y0 >= 0 and x1 < width and y1 < height:
        return pixels[y0 : y1 + 1, x0 : x1 + 1]
    cut = np.full((y1 - y0 + 1, x1 - x0 + 1, *pixels.shape[2:]), outside, pixels.dtype)
    inside = pixels[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)]
    top, left = max(-y0, 0), max(-x0, 0)
    if inside.size:
        cut[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return cut


def flip(sample: Sample, mirrored_keypoints: list[int]) -> Sample:
    """Mirror a sample left to right.

    Args:
        mirrored_keypoints: for each keypoint the index of the one that takes its name in the mirror (left eye: right
            eye).
    """
    last = sample.image.shape[1] - 1
    keypoints, box = sample.keypoints, sample.box
    if keypoints is not None:
        keypoints = keypoints[mirrored_keypoints]
        keypoints[:, 0] = (last - keypoints[:, 0]) * keypoints[:, 2]
    if box is not None:
        box = np.array([last - box[2], box[1], last - box[0], box[3]])
    return replace(
        sample,
        image=cv2.flip(sample.image, 1),
        box=box,
        keypoints=keypoints,
        **_labels(sample, lambda labels, _: cv2.flip(labels, 1)),
    )


def mirrored_indices(names: Sequence[str]) -> list[int]:
    """For each keypoint the index of the one that takes its name in the mirror: ``left X`` and ``right X`` swap."""
    swapped = {"left": "right", "right": "left"}

    def partner(name: str) -> str:
        side, _, rest = name.partition(" ")
        other = f"{swapped.get(side, side)} {rest}".strip()
        return other if other in names else name

    return [names.index(partner(name)) for name in names]


def random_box(
    width: int, height: int, area: Sequence[float], aspect: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """A box inside a picture, as torchvision's ``RandomResizedCrop`` draws it.

    Args:
        width, height: of the picture, pixels.
        area: smallest and largest share of the picture's area, uniform.
        aspect: smallest and largest width / height, uniform in its logarithm.
        rng: decides the box. Up to ten boxes are tried; if none fits, it is the largest central one of an allowed
            aspect.

    Returns:
        (x0, y0, x1, y1) int, inclusive.
    """
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*np.log(aspect)))
        w, h = round((pixels * ratio) ** 0.5), round((pixels / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
            return np.array([x, y, x + w - 1, y + h - 1])
    ratio = np.clip(width / height, *aspect)
    w, h = max(min(width, round(height * ratio)), 1), max(min(height, round(width / ratio)), 1)
    x, y = (width - w) // 2, (height - h) // 2
    return np.array([x, y, x + w - 1, y + h - 1])


def cut(sample: Sample, box: np.ndarray, outside: int = 1) -> Sample:
    """Cut (x0, y0, x1, y1), int and inclusive, out of a sample.

    Args:
        outside: what the picture is outside the picture; labels are as in :func:`crop`.
    """
    return replace(
        sample,
        image=_cut(sample.image, box, outside),
        **_labels(sample, lambda labels, rules: _cut(labels, box, rules["outside"])),
        **_moved(sample, box[:2], 1.0),
    )


def with_shorter_side(width: int, height: int, size: int, what: str) -> tuple[int, int]:
    """Width and height with the shorter of them at ``size``, the longer one at its integer part.

    Raises:
        UserError: ``what``, the picture or its box, is far too long.
    """
    shorter = min(width, height)
    if max(width, height) > LONGEST * shorter:
        raise UserError(
            f"{what} is {width} x {height} pixels: more than {LONGEST} times as long as it is wide, it cannot be "
            f"brought to a shorter side of {size}. Mend it, or take it out of the split."
        )
    return size * width // shorter, size * height // shorter


def resize(sample: Sample, width: int, height: int, labels: Literal["bilinear", "nearest"]) -> Sample:
    """Resize a picture by PIL, bilinear.

    Args:
        labels: how masks and part maps are resized. "bilinear" takes them for pictures too: where two parts meet, the
            mean of their numbers may be a third part's. Label maps that are not ``bilinear`` take the nearest pixel,
            and infrared is resized as the picture is.
    """

    def resized(pixels: np.ndarray, how: str) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[how.upper()]))

    def how(rules: Mapping[str, Any]) -> str:
        bilinear = rules.get("bilinear")
        return "bilinear" if bilinear == "always" else labels if bilinear else "nearest"

    scale = np.array([width, height]) / sample.foreground.shape[::-1]
    return replace(
        sample,
        image=resized(sample.image, "bilinear"),
        **_labels(sample, lambda found, rules: resized(found, how(rules))),
        **_moved(sample, np.zeros(2), scale),
    )


def pad_to_square(sample: Sample, size: int) -> Sample:
    """The whole picture in a square of ``size`` pixels.

    The longer side is resized to ``size``, the picture and infrared by OpenCV, bilinear, masks by the nearest pixel.
    The shorter direction is centred and filled: the picture and infrared with their edge, masks with what is outside.
    """
    height, width = sample.foreground.shape
    inner = np.maximum(np.rint(np.array([width, height]) * size / max(height, width)), 1).astype(int)
    scale = inner / [width, height]
    left, top = (size - inner) // 2
    right, bottom = size - inner - [left, top]

    def padded(pixels: np.ndarray, interpolation: int, **how) -> np.ndarray:
        resized = cv2.resize(pixels, inner.tolist(), interpolation=interpolation)
        return np.pad(resized, ((top, bottom), (left, right), *[(0, 0)] * (pixels.ndim - 2)), **how)

    def changed(labels: np.ndarray, rules: Mapping[str, Any]) -> np.ndarray:
        if rules.get("bilinear") == "always":
            return padded(labels, cv2.INTER_LINEAR, mode="edge")
        return padded(labels, cv2.INTER_NEAREST, constant_values=rules["outside"])

    return replace(
        sample,
        image=padded(sample.image, cv2.INTER_LINEAR, mode="edge"),
        **_labels(sample, changed),
        **_moved(sample, -np.array([left, top]) / scale, scale),
    )
