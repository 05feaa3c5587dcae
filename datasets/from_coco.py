"""A folder of one's own pictures from a COCO file: ``python -m datasets.from_coco FILE.json IMAGES DIR [OBJECT]``.

    python -m datasets.from_coco annotations.json my_photos my_birds
    python -m datasets.from_coco annotations.json my_photos my_birds bird
    python -m datasets.check dataset_name=folder dataset_root=my_birds

In turn: masks, parts and keypoints; where bird is the category of whole objects; what there is then.

Reads instances and keypoints as CVAT and Label Studio export them, polygons and run lengths, and writes what
``dataset_name=folder`` reads (docs/data/folder.md): ``images/`` (copies), ``masks/``, and where the file has them
``parts/`` and ``keypoints.csv``.
"""

import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from datasets.files import foreign, read_text, some
from utils.errors import UserError
from utils.paths import read_path

OUTSIDE = 1.0  # pixels that a polygon or keypoint may lie beyond the picture's edge
SHIFT = 4  # bits after the point, of polygons' corners
# Lists of the file, and what each of their entries needs.
LISTS = {"images": {"id", "file_name", "width", "height"}, "categories": {"id", "name"}, "annotations": {"image_id"}}


def convert(file: Path, images: Path, folder: Path, object_name: str | None = None) -> str:
    """Write the folder, all of it or nothing.

    A category is a part, numbered in the file's order, and a mask is where any annotation is; of two that overlap the
    smaller lies on top. The category of whole objects, ``object_name``, or the only one, counts for masks alone.

    Args:
        file: the JSON.
        images: folder that the names in it are seen from.
        folder: new.
        object_name: None: there is none, unless there is one category alone.

    Returns:
        What was written, in a line.

    Raises:
        UserError: pictures or entries are missing, categories repeat, annotation lies outside of its picture, or the
            folder is there already; the message names which.
    """
    content = read(file)
    if folder.exists():
        raise UserError(f"{folder} is there already: name a new folder.")
    pictures = {picture["id"]: picture for picture in content["images"]}
    if missing := [name for picture in pictures.values() if not (images / (name := picture["file_name"])).is_file()]:
        raise UserError(
            f"{len(missing)} of the {len(pictures)} pictures of {file} are not in {images}, for example {missing[0]}: "
            "give the folder that the names are seen from."
        )
    names = [category["name"] for category in content["categories"]]
    if object_name is not None and object_name not in names:
        raise UserError(f"{file} has no category {object_name}: it has {', '.join(names)}.")
    if len(names) == 1:
        object_name = names[0]
    of_picture = {place: [] for place in pictures}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in pictures:
            raise UserError(f"{file}: {told(annotation)} is of a picture that is not in the file. Take it out.")
        of_picture[annotation["image_id"]].append(annotation)

    part_names = [name for name in names if name != object_name]
    labels = {
        category["id"]: part_names.index(category["name"]) + 1 if category["name"] in part_names else 0
        for category in content["categories"]
    }
    keypoints = {category["id"]: category.get("keypoints", []) for category in content["categories"]}
    rows, has_masks, has_parts = [], any(annotation.get("segmentation") for annotation in content["annotations"]), False
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for place, picture in pictures.items():
            name, shape = picture["file_name"], (picture["height"], picture["width"])
            mask, part_map = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            found = [(shape_of(annotation, picture, file), annotation) for annotation in of_picture[place]]
            for shown, annotation in sorted(found, key=lambda pair: -int(pair[0].sum())):
                label = label_of(labels, annotation, file)
                mask[shown] = 255
                if label and shown.any():
                    part_map[shown], has_parts = label, True
            rows += keypoint_rows(of_picture[place], keypoints, picture, file)
            written = ({"masks": mask} if has_masks else {}) | ({"parts": part_map} if part_names else {})
            for kind, pixels in written.items():
                path = (temporary / kind / name).with_suffix(".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            (copy := temporary / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / name, copy)
        if has_parts:
            lines = "".join(f"{label} {part}\n" for label, part in enumerate(part_names, start=1))
            (temporary / "parts/parts.txt").write_text(lines)
        else:
            shutil.rmtree(temporary / "parts", ignore_errors=True)
        if rows:
            with (temporary / "keypoints.csv").open("w", newline="") as out:
                csv.writer(out).writerows([("name", "keypoint", "x", "y", "visible"), *rows])
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    parts = f", {len(part_names)} parts" if has_parts else ""
    with_masks = "with masks" if has_masks else "without masks, of which the file has none (docs/masks.md)"
    return f"{folder}: {len(pictures)} pictures {with_masks}{parts}, {len(rows)} keypoints."


def read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO file; UserError where it has none, or a category or picture twice."""
    with foreign(file, "COCO file (JSON)"):
        content = json.loads(read_text(file))
    for key, needed in LISTS.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            raise UserError(f"{file} is no COCO file of annotations: it has no list '{key}' with something in it.")
        for entry in content[key]:
            if not isinstance(entry, dict) or needed - entry.keys():
                raise UserError(f"{file}: an entry of '{key}' has no {', '.join(sorted(needed - {*entry}))}: {entry}.")
    for key, field in (("categories", "name"), ("categories", "id"), ("images", "file_name"), ("images", "id")):
        if repeated := [value for value, count in Counter(entry[field] for entry in content[key]).items() if count > 1]:
            raise UserError(
                f"{file}: {len(repeated)} {key} repeat: {field} {some([*map(str, repeated)], 3)}. Make each one's own, "
                "or join them."
            )
    return content


def told(annotation: Mapping[str, Any]) -> str:
    """An annotation, for a message."""
    return f"annotation {annotation.get('id', '(without an id)')}"


def label_of(labels: Mapping[Any, int], annotation: Mapping[str, Any], file: Path) -> int:
    """The part of an annotation, 0: that of a whole object."""
    if annotation.get("category_id") not in labels:
        raise UserError(f"{file}: {told(annotation)} has the category {annotation.get('category_id')}, which is none.")
    return labels[annotation["category_id"]]


def shape_of(annotation: Mapping[str, Any], picture: Mapping[str, Any], file: Path) -> np.ndarray:
    """Where an annotation is (H, W) bool: its polygons or run lengths; nowhere if it has none, but keypoints alone."""
    size, what = (picture["height"], picture["width"]), f"{file}: {told(annotation)}, in {picture['file_name']},"
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return np.zeros(size, bool)
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        if segmentation.get("size") != list(size) or sum(counts) != size[0] * size[1] or min(counts) < 0:
            raise UserError(f"{what} has run lengths of another size than the picture's {size[1]} x {size[0]}.")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
    mask = np.zeros(size, np.uint8)
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise UserError(f"{what} has a polygon of {len(polygon)} numbers: x and y of three corners or more.")
        corners = np.array(polygon, float).reshape(-1, 2)
        if (corners < -OUTSIDE).any() or (corners > np.array(size[::-1]) + OUTSIDE).any():
            raise UserError(f"{what} has a polygon that leaves the picture of {size[1]} x {size[0]} pixels.")
        # COCO counts from the corner of the first pixel, OpenCV from its middle.
        cv2.fillPoly(mask, [np.rint((corners - 0.5) * 2**SHIFT).astype(np.int32)], 1, shift=SHIFT)
    return mask.astype(bool)


def keypoint_rows(
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[Any, Sequence[str]],
    picture: Mapping[str, Any],
    file: Path,
) -> list[tuple[str, str, float, float, int]]:
    """The rows of ``keypoints.csv`` of a picture; what is not annotated (v = 0) has none."""
    rows = []
    with_keypoints = [annotation for annotation in annotations if any(annotation.get("keypoints") or ())]
    if len(with_keypoints) > 1:
        raise UserError(
            f"{file}: {picture['file_name']} has {len(with_keypoints)} objects with keypoints, and keypoints.csv is "
            "for one: cut the picture, or take the others out."
        )
    for annotation in with_keypoints:
        own, points = names.get(annotation.get("category_id"), ()), annotation["keypoints"]
        if len(points) != 3 * len(own):
            raise UserError(
                f"{file}: {told(annotation)} has {len(points)} numbers for {len(own)} keypoints with names."
            )
        for name, (x, y, seen) in zip(own, np.array(points, float).reshape(-1, 3).tolist(), strict=True):
            if seen and not (
                -OUTSIDE <= x <= picture["width"] + OUTSIDE and -OUTSIDE <= y <= picture["height"] + OUTSIDE
            ):
                raise UserError(
                    f"{file}: {told(annotation)}: {name} at {x:g}, {y:g} is outside {picture['file_name']}."
                )
            if seen:
                rows.append((picture["file_name"], name, x, y, int(seen == 2)))
    return rows


def run_lengths(text: str) -> list[int]:
    """The counts of COCO's compressed run lengths; ``evaluation.part_files.run_lengths`` says how they are written."""
    counts, number, shift = [], 0, 0
    for character in text:
        group = ord(character) - 48
        number |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, shift = 0, 0
    return counts


def main(arguments: Sequence[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    try:
        if not 3 <= len(arguments) <= 4 or any(argument.startswith("-") for argument in arguments):
            raise UserError(
                "give the file, the folder of its pictures, a new folder, and the category of whole objects if there "
                "is one: python -m datasets.from_coco FILE.json IMAGES DIR [OBJECT]"
            )
        keys = ("FILE", "IMAGES", "DIR")
        file, images, folder = (Path(read_path(text, key)) for key, text in zip(keys, arguments, strict=False))
        print(convert(file, images, folder, *arguments[3:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"To look at it: python -m datasets.check dataset_name=folder dataset_root={folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
