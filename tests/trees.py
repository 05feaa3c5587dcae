"""Small data sets drawn on disk, in the layouts that users have."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from datasets.cub import CUB

KEYPOINTS = ("beak", "left eye", "right eye", "tail")


def cub(root: Path, split: str, mask: str, **options) -> CUB:
    """The data set with the published crop, unless ``options`` say otherwise."""
    return CUB(root, split, mask, **{"box_padding": 0.05, "box_jitter": 0.05, "flip_probability": 0.5} | options)


def draw_cub_tree(
    root: Path,
    num_train: int = 6,
    num_test: int = 4,
    size: tuple[int, int] = (48, 64),
    masks: tuple[str, ...] = ("segmentations", "supervisedlabels", "pseudolabels"),
    part_maps: bool = False,
    cleaned: tuple[int, ...] = (),
    seed: int = 0,
) -> Path:
    """Draw a CUB tree of coloured ellipses and return ``root``.

    Args:
        size: height and width of every picture.
        masks: which folders of masks to draw; supervised ones are one pixel larger, unsupervised two.
        part_maps: also draw ``part_maps/``: 1 is the left half, 2 the right half.
        cleaned: numbers (from 1) of the training pictures of a cleaned list; its boxes and masks are the upper half of
            the object.
    """
    rng = np.random.default_rng(seed)
    base = root / "CUB_200_2011"
    height, width = size
    values = {"segmentations": 255, "supervisedlabels": 1, "pseudolabels": 255}
    lines: dict[str, list[str]] = {name: [] for name in ("images", "split", "labels", "boxes", "parts")}
    listed = []
    y, x = np.mgrid[:height, :width]
    for number in range(1, num_train + num_test + 1):
        label = 1 + number % 3
        name = f"{label:03d}.Species_{label}/Bird_{number:04d}"
        cx, cy = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
        rx, ry = width * rng.uniform(0.2, 0.3), height * rng.uniform(0.2, 0.3)

        def ellipse(grown: float, cx=cx, cy=cy, rx=rx, ry=ry) -> np.ndarray:
            return ((x - cx) / (rx + grown)) ** 2 + ((y - cy) / (ry + grown)) ** 2 <= 1

        picture = rng.integers(0, 256, (height, width, 3))
        picture[ellipse(0)] = picture[ellipse(0)] // 4 + rng.integers(0, 192, 3)
        _save(base / "images" / f"{name}.jpg", picture)
        for grown, folder in enumerate(values):
            if folder in masks:
                place = base / folder if folder == "segmentations" else root / folder
                _save(place / f"{name}.png", ellipse(grown) * values[folder])
        if part_maps:
            _save(root / "part_maps" / f"{name}.png", ellipse(0) * np.where(x < cx, 1, 2))

        rows, columns = np.nonzero(ellipse(0))
        left, top = columns.min(), rows.min()
        box_width, box_height = columns.max() - left + 1, rows.max() - top + 1
        is_train = number <= num_train
        lines["images"].append(f"{number} {name}.jpg")
        lines["split"].append(f"{number} {int(is_train)}")
        lines["labels"].append(f"{number} {label}")
        lines["boxes"].append(f"{number} {left + 1}.0 {top + 1}.0 {box_width}.0 {box_height}.0")
        places = ((cx + rx * 0.9, cy), (cx + rx / 2, cy), (0, 0), (cx - rx * 0.9, cy))
        for index, (px, py) in enumerate(places, start=1):
            hidden = index == 3
            lines["parts"].append(f"{number} {index} " + ("0.0 0.0 0" if hidden else f"{px + 1:.1f} {py + 1:.1f} 1"))
        if number in cleaned:
            upper = ellipse(0) & (y < cy)
            bottom = np.nonzero(upper)[0].max()
            corners = (left + 1, top + 1, left + box_width, bottom + 1)
            listed.append(
                {
                    "rel_path": f"{name}.jpg",
                    "bbox": dict(zip(("x1", "y1", "x2", "y2"), map(float, corners), strict=True)),
                    "mask": upper.astype(np.uint8),
                    "parts": np.zeros((3, len(KEYPOINTS))),
                }
            )
    (base / "parts").mkdir()
    for path, content in (
        ("images", lines["images"]),
        ("train_test_split", lines["split"]),
        ("image_class_labels", lines["labels"]),
        ("bounding_boxes", lines["boxes"]),
        ("parts/part_locs", lines["parts"]),
        ("parts/parts", [f"{index} {name}" for index, name in enumerate(KEYPOINTS, start=1)]),
    ):
        (base / f"{path}.txt").write_text("\n".join(content) + "\n")
    if part_maps:
        (root / "part_maps/parts.txt").write_text("1 left half\n2 right half\n")
    if listed:
        path = base / "cachedir/cub/data/train_cub_cleaned.mat"
        path.parent.mkdir(parents=True)
        # A list of structures in Matlab's sense.
        images = np.array([tuple(image.values()) for image in listed], dtype=[(name, object) for name in listed[0]])
        savemat(path, {"images": images})
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
