"""Predict masks or parts; every key is in conf/predict.yaml.

``python predict.py checkpoint=RUN`` of a run with ``method=foreground`` writes the masks of its data set that
``dataset.eval_mask=supervised`` reads, ``python predict.py checkpoint=RUN images=DIR output_dir=OUT`` the masks or
parts of anyone's pictures.
"""

import utils.interruptible  # noqa: F401

# isort: split
import os
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

import datasets
from conf import app
from conf.schema import PredictConfig
from datasets.base import NoPictures, Source
from datasets.pictures import Pictures
from datasets.sample import Remarks
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.palette import save_label_map
from evaluation.report import painted
from evaluation.whole_pictures import label_maps
from utils.console import stderr
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError

# For each picture the files to write, by what they hold: mask, label_map, overlay.
Files = list[dict[str, Path]]


def predict(config: DictConfig) -> None:
    """One pass over the pictures, batch by batch; each one's files are written as soon as they are known."""
    set_determinism(config.deterministic)
    fabric = build_fabric(config.device, config.precision)
    labeller, _, config = of_checkpoint(config, fabric)
    if labeller.needs_fit:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and gives features, not clusters: these "
            f"are fitted to a data set, give python evaluate.py checkpoint={config.checkpoint}."
        )

    # Whatever is in the way is found before the first picture.
    work = masks_of_a_data_set(config, labeller) if config.images is None else files_of_a_folder(config, labeller)
    for note in dict.fromkeys(note for pictures, _ in work for note in pictures.notes):
        print(note)
    chosen = [
        [place for place, of_picture in enumerate(files) if not (config.only_missing and there(of_picture))]
        for _, files in work
    ]
    written = [
        path
        for (_, files), places in zip(work, chosen, strict=True)
        for place in places
        for path in files[place].values()
    ]
    if not (config.overwrite or config.only_missing):
        refuse_to_overwrite(written)

    empty, skipped, remarks = [], [], Remarks()
    what = "masks" if labeller.gives_masks else "parts"
    for (pictures, files), places in zip(work, chosen, strict=True):
        unread: dict[int, str] | None = {} if config.dataset.on_error == "skip" else None
        found = label_maps(
            labeller,
            pictures,
            image_size=config.image_size,
            batch_size=config.evaluation.batch_size,
            num_workers=config.loader.num_workers,
            device=fabric.device,
            indices=places,
            skipped=unread,
        )
        bar = {"console": stderr, "transient": True, "disable": not stderr.is_terminal}
        for index, sample, labels in track(found, f"predicting {what}", total=len(places), **bar):
            write(files[index], sample.image, labels)
            remarks.add(sample.remarks)
            if not labels.any():
                empty.append(sample.name)
        for index, message in (unread or {}).items():
            skipped.append(message)
            written = [path for path in written if path not in files[index].values()]

    count = sum(map(len, chosen)) - len(skipped)
    paths = (path for _, files in work for of_picture in files for path in of_picture.values())
    print(f"{count} pictures, {len(written)} files in {os.path.commonpath([path.parent for path in paths])}")
    for line in remarks.lines():
        print(line)
    if empty:
        print(f"No {what} found in {len(empty)} of them: {', '.join(empty[:3])}{' ...' if empty[3:] else ''}")
    if skipped:
        print(f"{len(skipped)} pictures are skipped and have none. The first: {skipped[0]}")
    if config.images is None:
        data = f"dataset_name={config.dataset_name} dataset_root={config.dataset_root}"
        print(f"To use them: {data} dataset.eval_mask=supervised")


def masks_of_a_data_set(config: DictConfig, labeller: Labeller) -> list[tuple[Source, Files]]:
    """Both splits, as an evaluation reads them, and where it looks for predicted masks.

    Raises:
        UserError: the checkpoint finds parts, or the data set is not there.
    """
    if not labeller.gives_masks:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and finds parts: they are predicted for "
            "a folder of pictures, give images=DIR output_dir=OUT. Masks of a data set are of method=foreground."
        )
    work = []
    for split in ("train", "test"):
        try:
            pictures = datasets.build(config, split, "prediction")
        except NoPictures:
            if work or split == "train":
                continue
            raise
        work.append((pictures, [{"mask": pictures.mask_path(index, "supervised")} for index in range(len(pictures))]))
    return work


def files_of_a_folder(config: DictConfig, labeller: Labeller) -> list[tuple[Pictures, Files]]:
    """The pictures in ``config.images`` and their files in ``config.output_dir``.

    Label maps of parts are named as ``evaluate.py predictions=DIR`` looks for them, masks as a folder of one's own
    pictures has them.

    Raises:
        UserError: there is no ``output_dir``, or no pictures.
    """
    if config.output_dir is None:
        raise UserError("images=DIR needs a place for what is found in them: give output_dir=OUT.")
    pictures = Pictures(
        config.images,
        config.masks,
        box_padding=config.dataset.get("box_padding"),
        mask_threshold=config.dataset.get("mask_threshold"),
        ignore_label=config.dataset.ignore_label,
        on_error=config.dataset.on_error,
    )
    output = Path(config.output_dir)
    files = []
    for index in range(len(pictures)):
        name = pictures.sample_name(index)
        masks, parts = output / f"masks/{pictures.stem(index)}.png", output / f"label_maps/{name}.png"
        overlay = output / f"overlays/{name}.png"
        files.append({"label_map": masks if labeller.gives_masks else parts, "overlay": overlay})
    return [(pictures, files)]


def there(files: dict[str, Path]) -> bool:
    """Whether all of a picture's files are there."""
    return all(path.exists() for path in files.values())


def refuse_to_overwrite(paths: list[Path]) -> None:
    """
    Raises:
        UserError: one of these is there.
    """
    if present := [str(path) for path in paths if path.exists()]:
        more = f" and {len(present) - 3} more" if len(present) > 3 else ""
        raise UserError(
            f"There already: {', '.join(present[:3])}{more}. To replace them, give overwrite=true; "
            "to keep them and write the others, only_missing=true."
        )


def write(files: dict[str, Path], image: np.ndarray, labels: np.ndarray) -> None:
    """
    Args:
        files: where to write what.
        image: (H, W, 3) uint8, the picture.
        labels: (H, W) uint8, 0 is background.

    Raises:
        UserError: a file cannot be written.
    """
    for kind, path in files.items():
        # Interrupted, it leaves no half a file that looks like a whole one.
        temporary = path.with_name(f".{path.stem}.part{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "label_map":
                save_label_map(temporary, labels)
            else:
                Image.fromarray(labels if kind == "mask" else painted(image, labels)).save(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


if __name__ == "__main__":
    app.run("predict", predict, PredictConfig)
