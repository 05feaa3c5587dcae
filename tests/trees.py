"""Small data sets drawn on disk, in the layouts that users have."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from datasets import coco_stuff, potsdam
from datasets.cub import CUB, Options
from datasets.example import draw_folder

KEYPOINTS = ("beak", "left eye", "right eye", "tail")


def cub(root: Path, split: str, mask: str, **options) -> CUB:
    """The data set with the published crop, unless ``options`` say otherwise."""
    published = {"box_padding": 0.05, "box_jitter": 0.05, "flip_probability": 0.5}
    return CUB(root, split, mask, Options(**published | options))


def draw_own_tree(root: Path, count: int, size: int, held_out: int = 2) -> Path:
    """A folder of one's own drawn pictures, of which the first few are held out; gives ``root``."""
    draw_folder(root, count=count, size=size)
    (root / "test.txt").write_text("".join(f"creature_{number:03}\n" for number in range(1, held_out + 1)))
    return root


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


def draw_deepfashion_tree(
    root: Path,
    num_train: int = 4,
    num_test: int = 4,
    size: tuple[int, int] = (66, 45),
    masks: tuple[str, ...] = ("supervisedlabels",),
    masked: str = "test",
    seed: int = 0,
) -> Path:
    """Draw a DeepFashion tree of figures with head, shirt and trousers and return ``root``.

    Args:
        root: will be what the data set calls ``In-shop Clothes Retrieval Benchmark``.
        size: height and width of every picture.
        masks: which folders of masks to draw; supervised ones are one pixel larger, unsupervised two.
        masked: which pictures have such masks, "test", as published, or "all".
    """
    rng = np.random.default_rng(seed)
    base = root / "Anno/segmentation"
    height, width = size
    y, x = np.mgrid[:height, :width]
    colours = {0: (0, 0, 0), 11: (255, 0, 0), 2: (16, 78, 139), 13: (255, 250, 205)}
    lists: dict[str, list[dict]] = {name: [] for name in ("train", "query", "gallery")}
    for number in range(num_train + num_test):
        name = f"img_highres/WOMEN/Dresses/id_{number:08d}/01_1_front.jpg"
        cx, top = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.05, 0.15)
        half = width * rng.uniform(0.15, 0.25)

        def figure(grown: int, cx=cx, top=top, half=half) -> np.ndarray:
            labels = np.zeros(size, np.uint8)
            body = abs(x - cx) <= half + grown
            labels[body & (y >= 0.5 * height) & (y <= 0.9 * height + grown)] = 2
            labels[body & (y >= 0.25 * height - grown) & (y < 0.5 * height)] = 11
            labels[(x - cx) ** 2 + (y - top - half / 2) ** 2 <= (half / 2 + grown) ** 2] = 13
            return labels

        labels = figure(0)
        picture = rng.integers(0, 256, (height, width, 3))
        segment = np.zeros((height, width, 3))
        for label, colour in colours.items():
            segment[labels == label] = colour
            if label:
                picture[labels == label] = picture[labels == label] // 4 + np.array(colour) * 3 // 4
        _save(base / name, picture)
        _save(base / name.replace(".jpg", "_segment.png"), segment)
        for grown, folder in enumerate(("supervisedlabels", "pseudolabels"), start=1):
            if folder in masks and (masked == "all" or number >= num_train):
                _save(root / folder / f"{name}.png", figure(grown) > 0)
        split = "train" if number < num_train else ("query", "gallery")[number % 2]
        lists[split].append({"file_name": name, "height": height, "width": width, "id": number})
    for split, images in lists.items():
        content = {"images": images, "annotations": [], "categories": []}
        (base / f"DeepFashion_segmentation_{split}.json").write_text(json.dumps(content))
    return root


def draw_pascal_tree(
    root: Path,
    category: str = "car",
    num_train: int = 6,
    num_test: int = 4,
    size: tuple[int, int] = (48, 64),
    masks: tuple[str, ...] = ("supervisedlabels", "pseudolabels"),
    seed: int = 0,
) -> Path:
    """Draw a PASCAL-Part tree of coloured ellipses and return ``root``; drawn again, it takes another category in.

    A picture has three objects: a person without parts, one of the category, and a small one of the category. The
    parts of the large one overlap: the two wheels, listed first, are seen before the body.

    Args:
        size: height and width of every picture.
        masks: which folders of masks to draw; supervised ones are one pixel larger, unsupervised two.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    nothing = np.zeros(size, np.uint8)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(num_train + num_test):
        name = f"2010_{category}{number:03d}"
        cx, cy = width * rng.uniform(0.45, 0.55), height * rng.uniform(0.45, 0.55)
        rx, ry = width * rng.uniform(0.3, 0.35), height * rng.uniform(0.3, 0.35)

        def ellipse(grown: float, cx=cx, cy=cy, rx=rx, ry=ry) -> np.ndarray:
            return ((x - cx) / (rx + grown)) ** 2 + ((y - cy) / (ry + grown)) ** 2 <= 1

        body, small = ellipse(0), nothing.copy()
        small[:3, :4] = 1
        left, right = body & (x < cx - rx / 4), body & (x > cx + rx / 4)
        picture = rng.integers(0, 256, (height, width, 3))
        for part, colour in ((body, (160, 60, 60)), (left, (60, 160, 60)), (right, (60, 60, 160))):
            picture[part] = picture[part] // 8 + colour
        _save(root / f"VOC2010/JPEGImages/{name}.jpg", picture)
        objects = [
            _pascal_object("person", small, []),
            _pascal_object(category, body, [("wheel_1", left), ("wheel_2", right), ("body", body)]),
            _pascal_object(category, small, [("lamp_1", small)]),
        ]
        _save_pascal(root / f"Annotations_Part/{name}.mat", name, objects)
        for grown, folder in enumerate(("supervisedlabels", "pseudolabels"), start=1):
            if folder in masks:
                _save(root / folder / category / f"{name}_1.png", ellipse(grown))
        lists["train" if number < num_train else "val"].append(f"{name}  1")
    for split, lines in lists.items():
        path = root / f"VOC2010/ImageSets/Main/{category}_{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(["2010_not_here -1", *lines]) + "\n")
    return root


def _pascal_object(category: str, mask: np.ndarray, parts: list[tuple[str, np.ndarray]]) -> tuple:
    types = [("part_name", object), ("mask", object)]
    listed = np.array([(name, part.astype(np.uint8)) for name, part in parts], types)
    return category, 1.0, mask.astype(np.uint8), listed[None] if parts else np.zeros((0, 0), types)


def _save_pascal(path: Path, name: str, objects: list[tuple]) -> None:
    """An annotation in the published layout; see ``_pascal_object``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    types = [(field, object) for field in ("class", "class_ind", "mask", "parts")]
    annotation = {"imname": name, "objects": np.array(objects, types)[None]}
    savemat(path, {"anno": annotation}, do_compression=True)


def draw_potsdam_download(root: Path, stems: tuple[str, ...] = ("2_10", "6_10", "6_7"), side: int = 800) -> Path:
    """Draw Potsdam as it is downloaded, labels for all pictures but the last, and return ``root``."""
    rng = np.random.default_rng(0)
    colours = np.array(potsdam.COLOURS, np.uint8)
    for stem in stems:
        pixels = rng.integers(0, 256, (side, side, 4), dtype=np.uint8)
        name = f"top_potsdam_{stem}"
        path = root / f"4_Ortho_RGBIR/{name}_RGBIR.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels, "RGBX").save(path)  # a fourth channel that is called nothing
        if stem != stems[-1]:
            labels = np.kron(rng.integers(0, 6, (side // 8, side // 8)), np.ones((8, 8), int))
            _save(root / f"5_Labels_for_participants/{name}_label.tif", colours[labels])
    return root


def draw_potsdam_tree(root: Path, num_labelled: int = 4, num_unlabelled: int = 2) -> Path:
    """Draw tiles of Potsdam in the layout of IIC's author, and return ``root``."""
    rng = np.random.default_rng(0)
    for folder in ("imgs", "gt"):
        (root / folder).mkdir(parents=True)
    names = [str(name) for name in rng.permutation(num_labelled + num_unlabelled)]
    for name in names:
        pixels = rng.integers(0, 256, (potsdam.TILE, potsdam.TILE, 4), dtype=np.uint8)
        savemat(root / f"imgs/{name}.mat", {"img": pixels})
    for name in names[:num_labelled]:
        labels = rng.integers(0, 6, (potsdam.TILE, potsdam.TILE), dtype=np.int32)
        savemat(root / f"gt/{name}.mat", {"gt": labels}, do_compression=True)
    for listed, tiles in (
        ("labelled_test", names[:1]),
        ("labelled_train", names[1:num_labelled]),
        ("unlabelled_train", names[num_labelled:]),
    ):
        (root / f"{listed}.txt").write_text("".join(f"{tile}\n" for tile in tiles))
    (root / "debugged.out").write_text("")
    return root


def draw_coco_tree(
    root: Path, sizes: tuple[tuple[int, int], ...] = ((420, 500), (500, 380), (400, 400), (360, 360))
) -> Path:
    """Draw COCO-Stuff in the layout of the download, with both curated lists, and return ``root``.

    A label map is of small squares of a thing, of nothing, and of each class of stuff.

    Args:
        sizes: height and width of each picture; the last one is of val2017.
    """
    rng = np.random.default_rng(0)
    squares = np.array([3, 255, *(labels[0] for labels in coco_stuff.CLASSES.values())], np.uint8)
    for number, (height, width) in enumerate(sizes, start=1):
        folder = "val2017" if number == len(sizes) else "train2017"
        name = f"{number:012d}"
        y, x = np.mgrid[:height, :width] // 20
        labels = squares[(x + 5 * y) % len(squares)]
        _save(root / f"images/{folder}/{name}.jpg", rng.integers(0, 256, (height, width, 3)))
        _save(root / f"annotations/{folder}/{name}.png", labels)
        for curated in coco_stuff.PUBLISHED:
            path = coco_stuff.list_of(root, folder, curated)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"{name}\n")
    return root


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
