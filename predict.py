"""Predict masks or parts; every key is in conf/predict.yaml.

    python predict.py checkpoint=runs/my_run output_dir=predicted
    python predict.py checkpoint=runs/my_run images=my_birds masks=my_masks output_dir=predicted
    python predict.py pretrained=maskrcnn images=my_birds/images

``python predict.py checkpoint=RUN`` of a run with ``method=foreground`` writes the masks of its data set that
``dataset.eval_mask=supervised`` reads, ``python predict.py checkpoint=RUN images=DIR output_dir=OUT`` the masks or
parts of anyone's pictures. ``pretrained=maskrcnn images=DIR`` writes masks by a network that others have trained.
"""

import conf.start  # noqa: F401

# isort: split
import os
import shlex
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image
from rich.progress import track

import datasets
from conf import app
from conf.schema import PredictConfig
from conf.trained import tells_own_data
from datasets.base import NoPictures, Source
from datasets.files import pictures_in, some
from datasets.folder import WITHOUT_OBJECT
from datasets.lists import lists_of
from datasets.pictures import Pictures
from evaluation.labellers import foreground
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.palette import save_label_map
from evaluation.report import painted
from evaluation.whole_pictures import label_maps
from models import pretrained
from utils.console import stderr
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.run_directory import argument

# For each picture the files to write, by what they hold: mask, label_map, overlay.
Files = list[dict[str, Path]]


def predict(config: DictConfig) -> None:
    """One pass over the pictures, batch by batch; each one's files are written as soon as they are known."""
    set_determinism(config.deterministic)
    fabric = build_fabric(config.device, config.precision)
    if config.pretrained is None:
        labeller, checkpoint, config = of_checkpoint(config, fabric)
    else:
        labeller, checkpoint = foreground.of_predictor(fabric.setup_module(pretrained.build(config.pretrained))), None
    if config.task not in (None, finds := "foreground" if labeller.gives_masks else "parts"):
        named = config.checkpoint or f"pretrained={config.pretrained.name}"
        raise UserError(f"{named} finds the {finds}: leave out task={config.task}.")
    if labeller.needs_fit:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and gives features, not clusters: these "
            f"are fitted to a data set, give python evaluate.py checkpoint={config.checkpoint}."
        )

    # Whatever is in the way is found before the first picture.
    work = masks_of_a_data_set(config, labeller) if config.images is None else files_of_a_folder(config, labeller)
    if config.images is None and checkpoint:
        tells_own_data(checkpoint.config, config, lists_of(work[-1][0]))  # the test split
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

    # An empty mask would be taken for one; of a data set, whose evaluation asks for all of them, it is one.
    no_empty_mask = config.images is not None and labeller.gives_masks
    empty, skipped = [], []
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
            if not labels.any():
                empty.append(sample.name)
                if no_empty_mask:
                    for path in files[index].values():
                        path.unlink(missing_ok=True)  # of an earlier run, which overwrite=true replaces
                    written = [path for path in written if path not in files[index].values()]
                    continue
            write(files[index], sample.image, labels)
        for index, message in (unread or {}).items():
            skipped.append(message)
            written = [path for path in written if path not in files[index].values()]

    count = sum(map(len, chosen)) - len(skipped)
    paths = (path for _, files in work for of_picture in files for path in of_picture.values())
    print(f"{count} pictures, {len(written)} files in {os.path.commonpath([path.parent for path in paths])}")
    if empty:
        print(f"No {what} found in {len(empty):,} of them: {some(empty)}.")
        if no_empty_mask:
            print(list_without_object(output_of(config, labeller) / WITHOUT_OBJECT, empty))
    if skipped:
        print(f"{len(skipped)} pictures are skipped and have none. The first: {skipped[0]}")
    if config.images is None:
        data = f"dataset_name={config.dataset_name} dataset_root={config.dataset_root}"
        for_training = " dataset.train_mask=supervised" * (checkpoint is None)  # which others have trained
        print(f"To use them: {data}{for_training} dataset.eval_mask=supervised")
    elif labeller.gives_masks and beside(config.images, output_of(config, labeller)):
        root = shlex.quote(argument("dataset_root", output_of(config, labeller)))
        print(f"Look at them in overlays/. To train with them: python train.py dataset_name=folder {root}")


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
    """The pictures in ``config.images`` and their files in the folder of :func:`output_of`.

    Label maps of parts are named as ``evaluate.py predictions=DIR`` looks for them, masks as a folder of one's own
    pictures has them.

    Raises:
        UserError: there is no such folder, no pictures, or a mask that could not be replaced.
    """
    output = output_of(config, labeller)
    pictures = Pictures(
        config.images,
        config.masks,
        box_padding=config.dataset.get("box_padding"),
        on_error=config.dataset.on_error,
    )
    made = pictures_in(output / "masks", "")[0] if labeller.gives_masks and (output / "masks").is_dir() else {}
    files = []
    for index in range(len(pictures)):
        name, stem = pictures.sample_name(index), pictures.stem(index)
        overlay = {"overlay": output / f"overlays/{name}.png"}
        if labeller.gives_masks:
            # A mask made by hand may be of another type: under two endings there would be two.
            files.append(overlay | {"label_map": made.get(stem, output / f"masks/{stem}.png")})
        else:
            files.append({"label_map": output / f"label_maps/{name}.png"} | overlay)
    if others := [path for path in made.values() if config.overwrite and path.suffix != ".png"]:
        raise UserError(f"{others[0]} is not replaced by a PNG: take it away, or give only_missing=true to keep it.")
    return [(pictures, files)]


def output_of(config: DictConfig, labeller: Labeller) -> Path:
    """``output_dir``; for masks of DIR/images it is DIR by default, whose masks a folder of one's own pictures reads.

    Raises:
        UserError: there is none.
    """
    if config.output_dir is None and labeller.gives_masks and Path(config.images).name == "images":
        return Path(config.images).parent
    if config.output_dir is None:
        raise UserError("images=DIR needs a place for what is found in them: give output_dir=OUT.")
    return Path(config.output_dir)


def beside(images: str, output: Path) -> bool:
    """Whether pictures and what is found in them are one folder of one's own pictures."""
    return (output / "images").is_dir() and (output / "images").samefile(images)


def list_without_object(path: Path, names: list[str]) -> str:
    """Adds names of pictures to those in which nothing was found, a line each; the line that says so.

    Raises:
        UserError: the list cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.read_text().splitlines() if path.is_file() else []
        path.write_text("".join(f"{name}\n" for name in dict.fromkeys([*known, *names])))
    except (OSError, UnicodeError) as error:
        raise UserError(f"Cannot write {path}: {getattr(error, 'strerror', error)}.") from error
    return (
        f"They get no mask and are listed in {path}: a folder of one's own pictures leaves out what is listed there, "
        "until it has a mask."
    )


def there(files: dict[str, Path]) -> bool:
    """Whether a picture is done: what is written last is there."""
    return [*files.values()][-1].exists()


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
