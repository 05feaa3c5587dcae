"""A folder of one's own pictures from a COCO file: ``python -m datasets.from_coco FILE.json IMAGES DIR [OBJECT]``.

    python -m datasets.from_coco annotations.json my_photos my_birds
    python -m datasets.from_coco annotations.json my_photos my_birds bird
    python -m datasets.check dataset_name=folder dataset_root=my_birds

In turn: masks, parts and keypoints; where bird is the category of whole objects; what there is then.

Reads instances and keypoints as CVAT and Label Studio export them, polygons and run lengths, and writes what
``dataset_name=folder`` reads (docs/data/folder.md): ``images/`` (copies), ``masks/``, and where the file has them
``parts/``, ``keypoints.csv``, and boxes of objects without an outline, ``objects.csv``.
"""

import csv
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from datasets.files import ENDINGS, decoded, foreign, some
from datasets.folder import BOX, MAX_LABEL, OBJECTS
from datasets.names import stem_of
from datasets.turns import swaps_sides
from utils.errors import UserError
from utils.paths import read_path

OUTSIDE = 1.0  # pixels that a polygon or keypoint may lie beyond the picture's edge
LARGEST = 2**53  # of numbers: from there on floats leave whole ones out


def identifier(value: Any) -> int | str:
    """What entries are known by."""
    if isinstance(value, str) and value:
        return value
    return whole(value, "a whole number or a text")


def whole(value: Any, expected: str = "a whole number", least: int = -LARGEST) -> int:
    """A number without a fraction, however it is written."""
    if number(value, expected) != int(value) or value < least:
        raise ValueError(expected)
    return int(value)


def number(value: Any, expected: str = "a number") -> float:
    """Neither NaN nor infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise ValueError(expected)
    return float(value)


def side(value: Any) -> int:
    """Of a picture, in pixels."""
    return whole(value, "a whole number of pixels, 1 or more", least=1)


def line(value: Any) -> str:
    """A name that lists can hold."""
    if not isinstance(value, str) or value != value.strip() or len(value.splitlines()) != 1:
        raise ValueError("a text of one line, without blanks around it")
    return value


def file_name(value: Any) -> str:
    """A picture's place in the folder of pictures, and nowhere else."""
    name = PureWindowsPath(line(value))  # knows the paths of all systems
    if name.anchor or ".." in name.parts:
        raise ValueError("a path in the folder of pictures, neither absolute nor with '..'")
    if name.suffix.lower() not in ENDINGS:
        raise ValueError(f"a picture's, with one of the endings {', '.join(sorted(ENDINGS))}")
    return name.as_posix()


def keypoint_names(value: Any) -> list[str]:
    """Of a category: each once."""
    if not isinstance(value, list) or len({*map(str, value)}) < len(value):
        raise ValueError("a list of names, each of them once")
    return [line(name) for name in value]


def keypoints(value: Any) -> list[tuple[float, float, int]]:
    """x, y and visibility."""
    if not isinstance(value, list) or len(value) % 3 or any(seen not in (0, 1, 2) for seen in value[2::3]):
        raise ValueError("a list of numbers x, y, visibility for each keypoint, the last 0, 1 or 2")
    numbers = [number(item, "a list of numbers, none of them NaN") for item in value]
    return [(x, y, int(seen)) for x, y, seen in zip(*(numbers[start::3] for start in range(3)), strict=True)]


def segmentation(value: Any) -> list[list[float]] | dict[str, Any]:
    """Polygons or run lengths."""
    if isinstance(value, dict):
        if not isinstance(value.get("size"), list) or not isinstance(value.get("counts"), list | str):
            raise ValueError("run lengths with 'size' and 'counts'")
        counts = value["counts"]
        if isinstance(counts, list):
            counts = [whole(item, "run lengths whose counts are whole numbers, 0 or more", least=0) for item in counts]
        return {"size": [side(item) for item in value["size"]], "counts": counts}
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise ValueError("a list of polygons, each of them a list, or run lengths")
    if short := [polygon for polygon in value if len(polygon) < 6 or len(polygon) % 2]:
        raise ValueError(f"polygons with x and y of three corners or more, not one of {len(short[0])} numbers")
    return [[number(item, "polygons of numbers, none of them NaN") for item in polygon] for polygon in value]


def box(value: Any) -> list[float]:
    """x, y, width and height; none is an empty list."""
    if not isinstance(value, list) or len(value) not in (0, len(BOX)):
        raise ValueError("a list of the numbers x, y, width, height")
    return [number(item, "a list of the numbers x, y, width, height, none of them NaN") for item in value]


# Lists of the file; of each of their entries the fields that it needs, and those that it may have.
Fields = Mapping[str, Callable[[Any], Any]]
LISTS: Mapping[str, tuple[Fields, Fields]] = {
    "images": ({"id": identifier, "file_name": file_name, "width": side, "height": side}, {}),
    "categories": ({"id": identifier, "name": line}, {"keypoints": keypoint_names}),
    "annotations": (
        {"image_id": identifier, "category_id": identifier},
        {"id": identifier, "segmentation": segmentation, "keypoints": keypoints, "bbox": box},
    ),
}


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
    pictures = pictures_in(content, images, file)
    names = [category["name"] for category in content["categories"]]
    if object_name is not None and object_name not in names:
        raise UserError(f"{file} has no category {object_name}: it has {', '.join(names)}.")
    if len(names) == 1:
        object_name = names[0]
    of_picture = annotations_by_picture(content, file)

    has_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    part_names = [name for name in names if name != object_name]
    if has_masks and len(part_names) > MAX_LABEL:
        raise UserError(
            f"{file} has {len(part_names)} categories of parts, and label maps hold {MAX_LABEL}: join some."
        )
    labels = {
        category["id"]: part_names.index(category["name"]) + 1 if category["name"] in part_names else 0
        for category in content["categories"]
    }
    named = {category["id"]: category.get("keypoints", []) for category in content["categories"]}
    rows, has_parts = [], False
    boxes, unused = objects(content, object_name, has_masks, file)
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
            rows += keypoint_rows(of_picture[place], named, picture, file)
            written = ({"masks": mask} if has_masks else {}) | ({"parts": part_map} if part_names else {})
            for kind, pixels in written.items():
                path = temporary / kind / f"{stem_of(Path(name))}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
            (copy := temporary / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(images / name, copy)
        if has_parts:
            lines = "".join(f"{label} {part}\n" for label, part in enumerate(part_names, start=1))
            (temporary / "parts/parts.txt").write_text(lines, encoding="utf-8")
        else:
            shutil.rmtree(temporary / "parts", ignore_errors=True)
        if rows:
            write_rows(temporary / "keypoints.csv", [("name", "keypoint", "x", "y", "visible"), *rows])
        if boxes:
            write_rows(temporary / OBJECTS, boxes)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    parts = f", {len(part_names)} parts" if has_parts else ""
    of_objects = f", {len(boxes) - 1} boxes of objects" if boxes else ""
    with_masks = "with masks" if has_masks else "without masks, of which the file has none (docs/masks.md)"
    written = f"{folder}: {len(pictures)} pictures {with_masks}{parts}, {len(rows)} keypoints{of_objects}."
    left_out = f"\n{unused} boxes are left out: {OBJECTS} has one of a whole object for each picture." if unused else ""
    return written + left_out


def pictures_in(content: Mapping[str, Any], images: Path, file: Path) -> dict[int | str, dict[str, Any]]:
    """The file's pictures by their id; each is there, and of the size that the file says (UserError)."""
    pictures = {picture["id"]: picture for picture in content["images"]}
    if missing := [name for picture in pictures.values() if not (images / (name := picture["file_name"])).is_file()]:
        raise UserError(
            f"{len(missing)} of the {len(pictures)} pictures of {file} are not in {images}, for example {missing[0]}: "
            "give the folder that the names are seen from."
        )
    for picture in pictures.values():
        check_size(images / picture["file_name"], picture, file)
    return pictures


def annotations_by_picture(content: Mapping[str, Any], file: Path) -> dict[int | str, list[dict[str, Any]]]:
    """Of each picture its annotations, by its id; there are none of others (UserError)."""
    of_picture = {picture["id"]: [] for picture in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in of_picture:
            raise UserError(f"{file}: {told(annotation)} is of a picture that is not in the file. Take it out.")
        of_picture[annotation["image_id"]].append(annotation)
    return of_picture


def read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a COCO file, their entries with the fields of ``LISTS`` alone.

    Raises:
        UserError: a list, an entry's field or its value is not what it must be, or a category or picture is there
            twice; the message names it.
    """
    with foreign(file, "COCO file (JSON)"):
        content = json.loads(file.read_bytes())
    found = {}
    for key, (needed, optional) in LISTS.items():
        if not isinstance(content, dict) or not isinstance(content.get(key), list) or not content[key]:
            raise UserError(f"{file} is no COCO file of annotations: it has no list '{key}' with something in it.")
        found[key] = [
            read_entry(entry, needed, optional, f"{file}: {key}[{place}]") for place, entry in enumerate(content[key])
        ]
    for picture in found["images"]:
        picture["stem"] = stem_of(Path(picture["file_name"]))
    for key, field in (("categories", "name"), ("categories", "id"), ("images", "stem"), ("images", "id")):
        if repeated := [value for value, count in Counter(entry[field] for entry in found[key]).items() if count > 1]:
            what = "file_name (but for its ending, without which masks are called)" if field == "stem" else field
            raise UserError(
                f"{file}: {len(repeated)} {key} repeat: {what} {some([*map(str, repeated)], 3)}. Make each one's own, "
                "or join them."
            )
    return found


def read_entry(entry: Any, needed: Fields, optional: Fields, where: str) -> dict[str, Any]:
    """An entry's fields, as they are meant; what is null is not there."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be an entry in braces, not {excerpt(entry)}.")
    read = {}
    for field, value_of in {**needed, **optional}.items():
        if (value := entry.get(field)) is None:
            if field in needed:
                raise UserError(f"{where} has no {field}: {excerpt(entry)}.")
            continue
        try:
            read[field] = value_of(value)
        except ValueError as error:
            raise UserError(f"{where}, {field} must be {error}: {excerpt(value)}. Mend the entry.") from None
    return read


def excerpt(value: Any) -> str:
    """A value as the file has it, its beginning where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:80]}..."


def check_size(path: Path, picture: Mapping[str, Any], file: Path) -> None:
    """Raises UserError where a file is no picture, or one of another size than the entry says."""
    size, turn = decoded(path, lambda opened: opened.size)
    sizes = {size, size[::-1] if swaps_sides(turn) else size}  # as it is stored, and as viewers show it
    if (said := (picture["width"], picture["height"])) not in sizes:
        raise UserError(
            f"{path} has {size[0]} x {size[1]} pixels, and {file} says {said[0]} x {said[1]}: it was annotated in "
            "another size, or is another picture. Give the pictures that were annotated."
        )


def objects(
    content: Mapping[str, Sequence[Mapping[str, Any]]], object_name: str | None, has_masks: bool, file: Path
) -> tuple[list[tuple[str | float, ...]], int]:
    """The rows of ``objects.csv`` with its header, of boxes without an outline, and how many of these it cannot hold.

    A box is a whole object's if its category is, or in a file of boxes alone, where categories are classes; and if it
    is the only such one in its picture.
    """
    category = {entry["id"]: entry["name"] for entry in content["categories"]}
    alone = [
        annotation
        for annotation in content["annotations"]
        if len(found := annotation.get("bbox") or ()) == len(BOX)
        and min(found[2:]) >= 1
        and not annotation.get("segmentation")
    ]
    of_picture: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in alone:
        label_of(category, annotation, file)
        if category[annotation["category_id"]] == object_name or (object_name is None and not has_masks):
            of_picture.setdefault(annotation["image_id"], []).append(annotation)
    rows: list[tuple[str | float, ...]] = []
    single = {place: found[0] for place, found in of_picture.items() if len(found) == 1}
    # A column of classes has to have one of every picture.
    with_class = object_name is None and len(single) == len(content["images"])
    for picture in content["images"]:
        if (annotation := single.get(picture["id"])) is not None:
            x, y, width, height = annotation["bbox"]
            if not (-width < x < picture["width"] and -height < y < picture["height"]):
                raise UserError(f"{file}: {told(annotation)} has a box outside {picture['file_name']}.")
            of_class = (category[annotation["category_id"]],) if with_class else ()
            rows.append((picture["file_name"], *of_class, x, y, width, height))
    header = ("name", *(("class",) if with_class else ()), *BOX)
    return [header, *rows] if rows else [], len(alone) - len(rows)


def write_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(rows)


def told(annotation: Mapping[str, Any]) -> str:
    """An annotation, for a message."""
    return f"annotation {annotation.get('id', '(without an id)')}"


def label_of(labels: Mapping[Any, Any], annotation: Mapping[str, Any], file: Path) -> Any:
    """What an annotation's category is; of a part its number, and 0 of a whole object."""
    if annotation["category_id"] not in labels:
        raise UserError(f"{file}: {told(annotation)} has the category {annotation['category_id']}, which is none.")
    return labels[annotation["category_id"]]


def shape_of(annotation: Mapping[str, Any], picture: Mapping[str, Any], file: Path) -> np.ndarray:
    """Where an annotation is (H, W) bool: its polygons or run lengths; nowhere if it has none, but keypoints alone."""
    size, what = (picture["height"], picture["width"]), f"{file}: {told(annotation)}, in {picture['file_name']},"
    outline = annotation.get("segmentation")
    if not outline:
        return np.zeros(size, bool)
    if isinstance(outline, dict):
        # pycocotools gives memory as it finds it where runs are too short.
        counts = outline["counts"]
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        if outline["size"] != list(size) or sum(counts) != size[0] * size[1] or min(counts) < 0:
            raise UserError(f"{what} has run lengths of another size than the picture's {size[1]} x {size[0]}.")
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
    corners = np.concatenate(outline).reshape(-1, 2)
    if (corners < -OUTSIDE).any() or (corners > np.array(size[::-1]) + OUTSIDE).any():
        raise UserError(f"{what} has a polygon that leaves the picture of {size[1]} x {size[0]} pixels.")
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(outline, *size))).astype(bool)


def keypoint_rows(
    annotations: Sequence[Mapping[str, Any]],
    names: Mapping[Any, Sequence[str]],
    picture: Mapping[str, Any],
    file: Path,
) -> list[tuple[str, str, float, float, int]]:
    """The rows of ``keypoints.csv`` of a picture; what is not annotated (v = 0) has none."""
    rows = []
    with_keypoints = [
        annotation for annotation in annotations if any(seen for *_, seen in annotation.get("keypoints") or ())
    ]
    if len(with_keypoints) > 1:
        raise UserError(
            f"{file}: {picture['file_name']} has {len(with_keypoints)} objects with keypoints, and keypoints.csv is "
            "for one: cut the picture, or take the others out."
        )
    for annotation in with_keypoints:
        own, points = label_of(names, annotation, file), annotation["keypoints"]
        if len(points) != len(own):
            raise UserError(f"{file}: {told(annotation)} has {len(points)} keypoints for {len(own)} names.")
        for name, (x, y, seen) in zip(own, points, strict=True):
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
