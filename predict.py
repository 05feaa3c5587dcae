"""Predict masks or parts; every key is in conf/predict.yaml.

``python predict.py task=foreground checkpoint=RUN dataset_name=CUB`` writes the masks that
``dataset.eval_mask=supervised`` reads, ``python predict.py task=parts checkpoint=RUN images=DIR output_dir=OUT`` the
parts of anyone's pictures.
"""

import os
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

import datasets
from datasets.pictures import Pictures
from evaluation.labellers import LABELLERS
from evaluation.part_maps import save_label_map
from evaluation.report import painted
from evaluation.whole_pictures import Croppable, label_maps
from models import load_segmenter
from utils import app, checkpoints
from utils.console import stderr
from utils.devices import build_fabric, memory_format, set_determinism
from utils.errors import UserError

# For each picture the files to write, by what they hold: mask, label_map, overlay.
Files = list[dict[str, Path]]


def predict(config: DictConfig) -> None:
    """One pass over the pictures, batch by batch; each one's files are written as soon as they are known."""
    set_determinism(config)
    fabric = build_fabric(config.device, config.precision)
    file, checkpoint = checkpoints.find(config.checkpoint)
    segmenter = load_segmenter(file, task=config.task, memory_format=memory_format(config))
    labeller = LABELLERS[config.task](fabric.setup_module(segmenter))
    trained = checkpoint.get("config", {})
    config = app.with_settings_of(trained, config)

    # Whatever is in the way is found before the first picture.
    work = masks_of_a_data_set(config) if config.images is None else files_of_a_folder(config, trained)
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

    empty = []
    for (pictures, files), places in zip(work, chosen, strict=True):
        found = label_maps(
            labeller,
            pictures,
            image_size=config.image_size,
            batch_size=config.evaluation.batch_size,
            num_workers=config.loader.num_workers,
            device=fabric.device,
            indices=places,
        )
        bar = {"console": stderr, "transient": True, "disable": not stderr.is_terminal}
        for index, sample, labels in track(found, f"predicting {config.task}", total=len(places), **bar):
            write(files[index], sample.image, labels)
            if not labels.any():
                empty.append(sample.name)

    count = sum(map(len, chosen))
    folder = os.path.commonpath([path.parent for _, files in work for one in files for path in one.values()])
    print(f"{count} pictures, {len(written)} files in {folder}")
    if empty:
        print(f"No {config.task} found in {len(empty)} of them: {', '.join(empty[:3])}{' ...' if empty[3:] else ''}")
    if config.images is None:
        print(f"To use them: dataset_name={config.dataset_name} dataset.eval_mask=supervised")


def masks_of_a_data_set(config: DictConfig) -> list[tuple[Croppable, Files]]:
    """Both splits, as an evaluation reads them, and where it looks for predicted masks.

    Raises:
        UserError: parts are asked for, or the data set is not there.
    """
    if config.task != "foreground":
        raise UserError("task=parts is for a folder of pictures: give images=DIR output_dir=OUT.")
    work = []
    for split in ("train", "test"):
        pictures = datasets.build(config.dataset_name, config.dataset, config.dataset_root, split, "prediction")
        work.append((pictures, [{"mask": pictures.mask_path(index, "supervised")} for index in range(len(pictures))]))
    return work


def files_of_a_folder(config: DictConfig, trained: dict) -> list[tuple[Croppable, Files]]:
    """The pictures in ``config.images`` and their files in ``config.output_dir``.

    Label maps of parts are named as ``evaluate.py predictions=DIR`` looks for them, masks as a folder of one's own
    pictures has them.

    Args:
        trained: the config in the checkpoint; empty for a published one.

    Raises:
        UserError: there is no ``output_dir``, or no pictures.
    """
    if config.output_dir is None:
        raise UserError("images=DIR needs a place for what is found in them: give output_dir=OUT.")
    padding = trained.get("dataset", config.dataset).get("box_padding")
    pictures = Pictures(config.images, config.masks, box_padding=padding)
    output = Path(config.output_dir)
    files = []
    for index in range(len(pictures)):
        name = pictures.sample_name(index)
        masks, parts = output / f"masks/{pictures.stem(index)}.png", output / f"label_maps/{name}.png"
        overlay = output / f"overlays/{name}.png"
        files.append({"label_map": masks if config.task == "foreground" else parts, "overlay": overlay})
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
    app.run("predict", predict)
