"""Check a data set before training: ``python -m datasets.check dataset_name=CUB dataset_root=DIR [key=value ...]``.

    python -m datasets.check dataset_name=CUB dataset_root=data
    python -m datasets.check dataset_name=folder dataset_root=my_birds
    python -m datasets.check dataset_name=PP dataset_root=data dataset.category=dog

Takes every key of ``train.py``, and names each file that is missing, cannot be read or does not fit. Ends with status 1
if training could not start or would meet a picture that ends it; 2 after a mistake in the command.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.progress import track
from rich.table import Table
from torch.utils.data import Dataset

from conf import app
from datasets import build_from_lists
from datasets.base import Source
from datasets.files import (
    ENDINGS,
    HELP,
    MissingFile,
    SizesDiffer,
    UnreadableFile,
    missing_files,
    read_picture,
    ways_on,
)
from datasets.sample import VOID, Remark, Remarks, Sample
from utils import workers
from utils.console import stdout
from utils.errors import UserError

# What pictures are read for: the split, and whose masks.
READINGS = {
    "training": ("train", "training"),
    "fitting": ("train", "evaluation"),
    "held out": ("test", "evaluation"),
}
# Kind of fault -> whether reading the picture fails. The others harm, but training runs.
FAULTS = {
    "missing file": True,
    "unreadable file": True,
    "mask of another size": True,
    "other error": True,
    "empty mask": False,
    "mask of the whole picture": False,
    "mask outside the object's box": False,
    "keypoint outside the picture": False,
    "empty label map": False,
}
KIND_OF_ERROR = {
    MissingFile: "missing file",
    UnreadableFile: "unreadable file",
    SizesDiffer: "mask of another size",
}


@dataclass
class Findings:
    """What is known about one picture.

    Attributes:
        faults: (kind, message) pairs; the message names the file.
        remarks: what is odd but no fault.
        keypoints: the names of those that it shows.
        part_map: it has a part map with a part.
        class_map: it has a class map with a class.
    """

    faults: list[tuple[str, str]] = field(default_factory=list)
    remarks: tuple[Remark, ...] = ()
    keypoints: tuple[str, ...] = ()
    part_map: bool = False
    class_map: bool = False

    @property
    def fails(self) -> bool:
        """It cannot be read."""
        return any(FAULTS[kind] for kind, _ in self.faults)


def check(config: DictConfig) -> None:
    """Read all pictures as training and its evaluation do, and print what is wrong.

    Raises:
        SystemExit: with status 1, training could not start.
    """
    console = stdout()
    counts: dict[str, Counter[str]] = {}
    keypoints: dict[str, Counter[str]] = {}
    # Dictionaries for sets in order: the training split is read twice.
    faults: dict[tuple[str, str], None] = {}
    notes: dict[str, None] = {}
    remarks = Remarks()
    obstacles: list[str] = []
    ways: dict[str, None] = {}
    for reading, (split, purpose) in READINGS.items():
        try:
            dataset = build_from_lists(config, split, purpose)
        except UserError as error:
            obstacles.append(str(error))
            continue
        notes |= dict.fromkeys(dataset.notes)
        findings = list(_findings(dataset, reading, config.loader.num_workers))
        faults |= dict.fromkeys(fault for found in findings for fault in found.faults)
        remarks.add(remark for found in findings for remark in found.remarks)
        counts[reading] = _counted(findings)
        keypoints[split] = Counter(name for found in findings for name in found.keypoints)
        failing = sum(found.fails for found in findings)
        if failing and (split == "test" or config.dataset.on_error == "raise"):
            obstacles.append(f"{reading}: {failing:,} of {len(findings):,} pictures cannot be read")
            ways |= dict.fromkeys([ways_on(dataset, missing_files(dataset)[0])])
        if reading == "training" and len(findings) - failing < config.batch_size:
            obstacles.append(
                f"{reading}: {len(findings) - failing} pictures can be read, fewer than batch_size={config.batch_size}"
            )

    for kind, message in faults:
        console.print(f"{kind}: {message.removesuffix(HELP)}", soft_wrap=True, markup=False, highlight=False)
    for note in (*notes, *remarks.lines()):
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    if counts:
        console.print(_table(counts, f"{config.dataset_name} in {config.dataset_root}"))
    if shown := sum(keypoints.values(), Counter()):
        told = ", ".join(f"{name} {count:,}" for name, count in shown.items())
        console.print(f"Pictures that show each keypoint: {told}.", soft_wrap=True, markup=False, highlight=False)
    for obstacle in dict.fromkeys(obstacles):
        console.print(f"error: {obstacle}", soft_wrap=True, markup=False, highlight=False)
    for way in filter(None, ways):
        console.print(way, soft_wrap=True, markup=False, highlight=False)
    if obstacles:
        console.print("Training could not start, or would not reach its end.")
        sys.exit(1)
    console.print("Training can start.")


def findings_of(dataset: Source, index: int) -> Findings:
    """Read one picture of a data set with all its files and look at what is in them."""
    try:
        sample = dataset[index]
    except UserError as error:
        faults = [(_kind(error), str(error))]
        # The others may be broken too; what is no picture, the data set alone can read.
        for path in (path for path in dataset.files(index) if path.suffix.lower() in ENDINGS):
            try:
                read_picture(path)
            except UserError as other:
                faults.append((_kind(other), str(other)))
        return Findings(list(dict.fromkeys(faults)))
    return Findings(
        list(_odd(sample, dataset, [path for path in dataset.files(index) if path != sample.path])),
        sample.remarks,
        keypoints=()
        if sample.keypoints is None
        else tuple(name for name, shown in zip(dataset.keypoint_names, sample.keypoints[:, 2], strict=True) if shown),
        part_map=sample.part_map is not None and bool(sample.part_map.any()),
        class_map=sample.class_map is not None and bool((sample.class_map != VOID).any()),
    )


def _kind(error: UserError) -> str:
    return KIND_OF_ERROR.get(type(error), "other error")


def _odd(sample: Sample, dataset: Source, others: list[Path]) -> Iterator[tuple[str, str]]:
    height, width = sample.foreground.shape
    files = f"{sample.path}, in {' or '.join(map(str, others))}" if others else str(sample.path)
    if not sample.foreground.any():
        yield "empty mask", f"of {files}"
    elif sample.foreground.all() and dataset.has_masks:
        yield "mask of the whole picture", f"of {files}"
    elif sample.box is not None:
        x0, y0, x1, y1 = np.rint(sample.box).astype(int)
        if not sample.foreground[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)].any():
            yield "mask outside the object's box", f"of {files}, box ({x0}, {y0}) to ({x1}, {y1})"
    if sample.keypoints is not None:
        for name, (x, y, visible) in zip(dataset.keypoint_names, sample.keypoints, strict=True):
            if visible and not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                place = f"({x:g}, {y:g}), counted from 0, in {width} x {height} pixels"
                yield "keypoint outside the picture", f"{name} of {sample.path} at {place}"
    if sample.part_map is not None and not sample.part_map.any():
        yield "empty label map", f"of {files}"


@dataclass
class _Findings(Dataset):
    dataset: Source

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Findings:
        return findings_of(self.dataset, index)


def _findings(dataset: Source, reading: str, num_workers: int) -> Iterator[Findings]:
    loader = workers.loader(_Findings(dataset), num_workers=num_workers, batch_size=None)
    return track(loader, f"reading: {reading}", transient=True, disable=not sys.stdout.isatty())


def _counted(findings: list[Findings]) -> Counter[str]:
    counts = Counter(
        {
            "pictures": len(findings),
            "with visible keypoints": sum(bool(found.keypoints) for found in findings),
            "with a part map": sum(found.part_map for found in findings),
            "with a class map": sum(found.class_map for found in findings),
        }
    )
    counts.update(kind for found in findings for kind, _ in found.faults)
    return counts


def _table(counts: dict[str, Counter[str]], title: str) -> Table:
    table = Table("", title=title)
    for reading in counts:
        table.add_column(reading, justify="right")
    known = ("pictures", "with visible keypoints", "with a part map", "with a class map")
    for row in (*known, *FAULTS):
        bad = row in FAULTS and any(count[row] for count in counts.values())
        style = None if not bad else "bold red" if FAULTS[row] else "yellow"
        table.add_row(row, *(f"{count[row]:,}" if count[row] else "-" for count in counts.values()), style=style)
        if row == known[-1]:
            table.add_section()
    return table


if __name__ == "__main__":
    app.run("train", check)
