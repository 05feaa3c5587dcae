"""What was found in pictures as tables and JSON for other programs: ``parts.csv``, COCO."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from datasets.files import read_labels
from utils.files import written_whole

COLUMNS = (
    *("picture", "part", "pixels", "share", "centre_x", "centre_y"),
    *("box_x", "box_y", "box_width", "box_height", "certainty"),
)
Row = Mapping[str, str | int | float]


def part_rows(picture: str, labels: np.ndarray, certainty: np.ndarray, num_parts: int) -> list[Row]:
    """A row of ``parts.csv`` for each part of a picture; of one that is nowhere pixels and share are 0, the rest empty.

    Pixels are counted from 0: the centre of the top left one is (0, 0). A share is that of all pixels that have a part.

    Args:
        labels: (H, W) uint8, 0 is background.
        certainty: (H, W), the probability of each pixel's label.
    """
    rows, total = [], max(int(np.count_nonzero(labels)), 1)
    for part, place in enumerate(ndimage.find_objects(labels, max_label=num_parts), start=1):
        row = dict.fromkeys(COLUMNS, "") | {"picture": picture, "part": part, "pixels": 0, "share": 0.0}
        if place is not None:
            mask = labels[place] == part
            (top, left), (height, width) = (side.start for side in place), mask.shape
            y, x = (float(indices.mean()) for indices in np.nonzero(mask))
            count = int(mask.sum())
            row |= {"pixels": count, "share": round(count / total, 6)}
            row |= {"centre_x": round(left + x, 3), "centre_y": round(top + y, 3)}
            row |= {"box_x": left, "box_y": top, "box_width": width, "box_height": height}
            row["certainty"] = round(float(certainty[place][mask].mean(dtype=np.float64)), 6)
        rows.append(row)
    return rows


class PartTable:
    """``parts.csv`` while pictures are predicted: each one's rows are on disk before the next.

    Args:
        path: of the file. What it has of other pictures than those that are added stays.
        num_parts: K.
    """

    def __init__(self, path: Path, num_parts: int) -> None:
        self.path, self._num_parts = path, num_parts
        self.rows: dict[str, list[Row]] = {}
        if path.is_file():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if None not in row.values():  # cut off
                        self.rows.setdefault(row["picture"], []).append(row)

    def __contains__(self, picture: str) -> bool:
        """Whether it has all of a picture's rows."""
        return len(self.rows.get(picture, ())) == self._num_parts

    def begin(self, pictures: Iterable[str]) -> None:
        """Takes out what it has of pictures that are predicted anew, and what is cut off."""
        renewed = set(pictures)
        self.rows = {name: rows for name, rows in self.rows.items() if name in self and name not in renewed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for rows in self.rows.values():
                writer.writerows(rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Those of one picture."""
        self.rows[str(rows[0]["picture"])] = list(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerows(rows)


def write_coco(
    path: Path, label_maps: Mapping[str, Path], names: Sequence[str], rows: Mapping[str, Sequence[Row]]
) -> None:
    """Label maps as one COCO file: an annotation for each part of each picture, its mask as compressed RLE.

    Args:
        label_maps: of each picture's name the file of its label map.
        names: of the labels 1, 2, ...: the categories.
        rows: of ``parts.csv``, by picture: an annotation's ``score`` is the mean certainty. Empty: there are none.
    """
    images, annotations = [], []
    for image_id, (name, file) in enumerate(label_maps.items(), start=1):
        labels = read_labels(file)
        height, width = labels.shape
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for label, place in enumerate(ndimage.find_objects(labels, max_label=len(names)), start=1):
            if place is None:
                continue
            mask = labels == label
            (top, bottom), (left, right) = ((side.start, side.stop) for side in place)
            annotation = {
                **{"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0},
                **{"area": int(mask.sum()), "bbox": [left, top, right - left, bottom - top]},
                "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
            }
            if name in rows:
                annotation["score"] = float(rows[name][label - 1]["certainty"])
            annotations.append(annotation)
    categories = [{"id": label, "name": name, "supercategory": "part"} for label, name in enumerate(names, start=1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    with written_whole(path) as part:
        part.write_text(json.dumps(content))


def run_lengths(mask: np.ndarray) -> str:
    """A mask (H, W) in COCO's compressed run-length encoding.

    The pixels are taken column by column, and runs of 0 and 1 are counted in turn, of 0 first. From the fourth on a
    count is written as its difference to the last but one before it. A number is in two's complement, in groups of five
    bits from the lowest; each group, with 32 added where more follow, is the character with the code 48 more.
    """
    pixels = np.concatenate([[0], mask.ravel(order="F").astype(np.int8)])
    borders = np.flatnonzero(np.diff(pixels))
    counts = np.diff([0, *borders, mask.size])
    counts[3:] -= counts[1:-2].copy()
    characters = []
    for number in counts.tolist():
        while True:
            group, number = number & 31, number >> 5
            whole = number == (-1 if group & 16 else 0)  # the rest is the sign alone, which the group's highest bit has
            characters.append(chr(48 + group + (0 if whole else 32)))
            if whole:
                break
    return "".join(characters)
