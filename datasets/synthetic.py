"""The drawn data set: creatures in the layout of CUB, made on this machine, so that everything runs without a download.

Eight species of a bird-like creature. Each has four parts (body, head, wing, tail). A part has the same texture, shape
and place in every species, but the hues are dealt out anew: the colour of one species' head is another one's tail. So
colour alone cannot tell the parts; texture, shape and place can.
"""

from colorsys import hsv_to_rgb
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from PIL import Image

from conf.fields import number
from datasets import base, drawn
from datasets.base import Split
from datasets.cub import CUB
from datasets.sample import Purpose
from utils.seeding import generator

PARTS = ("body", "head", "wing", "tail")

# In the creature's own frame: it faces +x, y points down, the body is centred on (0, 0) and about two units long.
KEYPOINTS = {
    "beak": (1.5, -0.42),
    "crown": (1.0, -0.8),
    "eye": (1.24, -0.55),
    "throat": (0.8, 0.25),
    "breast": (0.62, 0.45),
    "belly": (0.0, 0.66),
    "back": (0.0, -0.62),
    "wing tip": (-0.6, 0.2),
    "tail tip": (-1.9, -0.32),
}

# Which part of a species takes which hue: rows are species, and every part meets every hue twice.
HUES_OF_SPECIES = (
    (0, 1, 2, 3),
    (1, 2, 3, 0),
    (2, 3, 0, 1),
    (3, 0, 1, 2),
    (0, 3, 2, 1),
    (1, 0, 3, 2),
    (2, 1, 0, 3),
    (3, 2, 1, 0),
)
HUES = (0.02, 0.16, 0.42, 0.64)

_VERSION = 1  # of the drawing: raised whenever the same numbers would give other pictures
_SUPERSAMPLING = 3


@dataclass
class Drawing:
    """What the drawn set depends on.

    Attributes:
        num_train, num_test: how many pictures of each split.
        size: longer side of a picture, pixels.
        turn: creatures are turned by up to so many degrees either way; 180: any way up.
        seed: of the drawing; training seeds do not touch it.
    """

    num_train: int = number(low=1)
    num_test: int = number(low=1)
    size: int = number(low=32)
    turn: float = number(low=0, high=180)
    seed: int = number(low=0)


@dataclass
class Options(base.Options, base.Masked, base.Boxed):
    """The keys of ``dataset``."""

    drawing: Drawing = MISSING


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "Synthetic":
    """See ``datasets.build``."""
    root = dataset_root / options.folder
    ensure(root, options.drawing)
    return Synthetic(root, split, options.mask(purpose), options)


class Synthetic(CUB):
    """The drawn set; it draws itself where it is first asked for."""

    name = "synthetic"


def ensure(root: Path, drawing: Drawing) -> None:
    """Draw the set into ``root``, which will hold ``CUB_200_2011/`` and ``part_maps/``; see ``drawn.ensure``."""
    drawn.ensure(root, {"version": _VERSION, **asdict(drawing)}, lambda folder: _draw_tree(folder, drawing))


def _draw_tree(root: Path, drawing: Drawing) -> None:
    cub = root / "CUB_200_2011"
    lines: dict[str, list[str]] = {
        name: [] for name in ("images", "train_test_split", "image_class_labels", "bounding_boxes", "parts/part_locs")
    }
    species_names = [f"{index + 1:03d}.Species_{index + 1}" for index in range(len(HUES_OF_SPECIES))]
    for image_id in range(1, drawing.num_train + drawing.num_test + 1):
        species = image_id % len(HUES_OF_SPECIES)
        name = f"{species_names[species]}/Creature_{image_id:04d}"
        random = generator(drawing.seed, "drawing", image_id)
        image, part_map, keypoints = draw_creature(species, drawing.size, random, drawing.turn)
        for folder, pixels, ending in (
            (cub / "images", image, "png"),
            (cub / "segmentations", (part_map > 0).astype(np.uint8) * 255, "png"),
            (root / "part_maps", part_map, "png"),
        ):
            path = folder / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        rows, columns = np.nonzero(part_map)
        x, y = columns.min(), rows.min()
        width, height = columns.max() - x + 1, rows.max() - y + 1
        lines["images"].append(f"{image_id} {name}.png")
        lines["train_test_split"].append(f"{image_id} {int(image_id <= drawing.num_train)}")
        lines["image_class_labels"].append(f"{image_id} {species + 1}")
        # CUB counts pixels from one.
        lines["bounding_boxes"].append(f"{image_id} {x + 1:.1f} {y + 1:.1f} {width:.1f} {height:.1f}")
        for index, (px, py, visible) in enumerate(keypoints, start=1):
            shown = f"{px + 1:.2f} {py + 1:.2f} 1" if visible else "0.0 0.0 0"
            lines["parts/part_locs"].append(f"{image_id} {index} {shown}")
    (cub / "parts").mkdir()
    for name, content in lines.items():
        (cub / f"{name}.txt").write_text("\n".join(content) + "\n")
    for path, names in (
        (cub / "parts/parts.txt", KEYPOINTS),
        (cub / "classes.txt", species_names),
        (root / "part_maps/parts.txt", PARTS),
    ):
        path.write_text("".join(f"{index} {name}\n" for index, name in enumerate(names, start=1)))


def draw_creature(
    species: int, size: int, rng: np.random.Generator, turn: float = 50
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, float, bool]]]:
    """One creature in a random pose before a random background.

    Args:
        species: 0..7, decides which part has which hue.
        size: longer side of the picture, pixels.
        rng: decides everything else.
        turn: the most degrees that it is turned by, either way.

    Returns:
        The picture (H, W, 3) uint8; its part map (H, W) uint8, 0 background, 1.. as in ``PARTS``; and a list of
        (x, y, visible) in the order of ``KEYPOINTS``, zero-based pixels.
    """
    height, width = int(size * rng.uniform(0.75, 1)), size
    scale = min(height, width) * rng.uniform(0.23, 0.29)
    # Never mirrored: the features of a random perceptual network hardly tell a mirrored creature's head from a tail.
    angle = np.deg2rad(rng.uniform(-turn, turn))
    pose = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([width, height]) / 2 + rng.uniform(-0.06, 0.06, 2) * size - pose @ np.array([-0.2, -0.1])

    # Pixels, supersampled, in the creature's frame.
    steps = (np.arange(_SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - 0.5
    xs = (np.arange(width)[:, None] + steps).ravel()
    ys = (np.arange(height)[:, None] + steps).ravel()
    pixels = np.stack(np.meshgrid(xs, ys), -1)
    u, v = np.moveaxis((pixels - centre) @ np.linalg.inv(pose).T, -1, 0)

    part_map = _part_at(u, v)
    image = _background(pixels / size, rng)
    for part, hue_index in enumerate(HUES_OF_SPECIES[species]):
        mark = _texture(part, u, v)[..., None]
        hue = HUES[hue_index] + rng.uniform(-0.02, 0.02)
        value = rng.uniform(0.85, 1)
        bright = np.array(hsv_to_rgb(hue % 1, rng.uniform(0.65, 0.85), value))
        dark = np.array(hsv_to_rgb(hue % 1, 0.9, value * 0.45))
        image = np.where((part_map == part + 1)[..., None], np.where(mark, dark, bright), image)

    image = image.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING, 3).mean((1, 3))
    image = np.clip(image * 255 + rng.normal(0, 4, image.shape), 0, 255)
    middle = _SUPERSAMPLING // 2
    part_map = part_map[middle::_SUPERSAMPLING, middle::_SUPERSAMPLING]

    keypoints = []
    for place in KEYPOINTS.values():
        x, y = pose @ np.array(place) + centre
        keypoints.append((x, y, 0 <= x <= width - 1 and 0 <= y <= height - 1))
    return image.astype(np.uint8), part_map.astype(np.uint8), keypoints


def _ellipse(u: np.ndarray, v: np.ndarray, centre: tuple[float, float], axes: tuple[float, float], degrees: float):
    """Whether (u, v) lies in an ellipse turned by ``degrees``."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    du, dv = u - centre[0], v - centre[1]
    return ((cos * du + sin * dv) / axes[0]) ** 2 + ((cos * dv - sin * du) / axes[1]) ** 2 <= 1


def _part_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Part label at each point of the creature's frame; later lines lie on top."""
    labels = np.zeros(u.shape, np.uint8)
    along = -u - 0.8  # the tail widens from the body's end backwards
    labels[(along > 0) & (along < 1.25) & (np.abs(v + 0.25 * along + 0.05) < 0.2 + 0.34 * along)] = 4
    labels[_ellipse(u, v, (0, 0), (1.05, 0.8), 0)] = 1
    beak = (u > 1.35) & (u < 1.72) & (np.abs(v + 0.42) < 0.2 * (1.72 - u) / 0.37)
    labels[_ellipse(u, v, (1.0, -0.45), (0.56, 0.54), 0) | beak] = 2
    labels[_ellipse(u, v, (-0.15, 0.08), (0.62, 0.4), -15)] = 3
    return labels


def _texture(part: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a part's texture is dark: spots, rings, stripes, chequers."""
    if part == 0:  # spots
        return (np.mod(u, 0.4) - 0.2) ** 2 + (np.mod(v, 0.4) - 0.2) ** 2 < 0.11**2
    if part == 1:  # rings
        return np.mod(np.hypot(u - 1.0, v + 0.45), 0.3) < 0.12
    if part == 2:  # stripes
        return np.mod(u + 0.4 * v, 0.3) < 0.15
    return (np.mod(u, 0.6) < 0.3) ^ (np.mod(v, 0.6) < 0.3)  # chequers


def _background(places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smooth coloured waves, another set for each picture: (H, W, 3) in [0, 1]."""
    image = np.broadcast_to(rng.uniform(0.3, 0.7, 3), (*places.shape[:2], 3)).copy()
    for _ in range(4):
        wave = np.sin(places @ rng.normal(0, 9, 2) + rng.uniform(0, 2 * np.pi))
        image += wave[..., None] * rng.uniform(-0.12, 0.12, 3)
    return np.clip(image, 0, 1)
