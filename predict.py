"""Predict masks or parts; every key is in conf/predict.yaml.

    python predict.py checkpoint=runs/my_run output_dir=predicted
    python predict.py checkpoint=runs/my_run images=my_birds masks=my_masks output_dir=predicted
    python predict.py checkpoint=runs/my_foreground_run images=my_birds output_dir=my_masks

``python predict.py checkpoint=RUN`` of a run with ``method=foreground`` writes the masks of its data set that
``dataset.eval_mask=supervised`` reads, ``python predict.py checkpoint=RUN images=DIR output_dir=OUT`` the masks or
parts of anyone's pictures, with a table of the parts (docs/masks.md).
"""

import conf.start  # noqa: F401

# isort: split
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import track

import datasets
from conf import app
from conf.schema import PredictConfig
from conf.trained import tells_own_data
from datasets.base import NoPictures, Source
from datasets.files import foreign
from datasets.lists import lists_of
from datasets.pictures import Pictures
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.palette import colours, save_label_map, with_legend
from evaluation.part_files import PartTable, part_rows, write_coco
from evaluation.report import painted
from evaluation.whole_pictures import Found, predictions
from utils.checkpoints import Checkpoint
from utils.console import stderr
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import digest_of, written_whole
from utils.run_directory import versions

# For each picture the files to write, by what they hold: mask, label_map, overlay, probabilities.
Files = list[dict[str, Path]]
# Of all pictures together, in output_dir.
TABLE, COCO, ABOUT = "parts.csv", "coco.json", "prediction.json"


def predict(config: DictConfig) -> None:
    """One pass over the pictures, batch by batch; each one's files are written as soon as they are known."""
    set_determinism(config.deterministic)
    fabric, given = build_fabric(config.device, config.precision), config
    labeller, checkpoint, config = of_checkpoint(config, fabric)
    if labeller.needs_fit:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and gives features, not clusters: these "
            f"are fitted to a data set, give python evaluate.py checkpoint={config.checkpoint}."
        )
    made_by = None if config.images is None or config.output_dir is None else about(config, checkpoint, labeller)
    if made_by and config.only_missing:
        refuse_another_checkpoint(Path(config.output_dir, ABOUT), made_by)
    if config.foreground is not None:
        config.masks = predict_masks_first(given, config, labeller, fabric)

    # Whatever is in the way is found before the first picture.
    work = masks_of_a_data_set(config, labeller) if config.images is None else files_of_a_folder(config, labeller)
    table = None
    if config.images is not None and not labeller.gives_masks:
        table = PartTable(Path(config.output_dir, TABLE), labeller.num_parts)
    chosen = to_write(config, work, of_all_pictures(config, labeller), table)
    if config.images is None:
        tells_own_data(checkpoint.config, config, lists_of(work[-1][0]))  # the test split
    for note in notes_of(config, labeller, work):
        print(note)
    if made_by:
        with told(path := Path(config.output_dir, ABOUT)):
            write_json(path, made_by)
    if table is not None:
        with told(table.path):
            table.begin(work[0][0].sample_name(place) for place in chosen[0])
    written, count = run(config, labeller, fabric, work, chosen, table)
    if config.format == "coco":
        with told(path := Path(config.output_dir, COCO)):
            ((pictures, files),) = work
            maps = {pictures.sample_name(place): of_one["label_map"] for place, of_one in enumerate(files)}
            present = {name: file for name, file in maps.items() if file.exists()}
            names = ["object"] if labeller.gives_masks else [f"part {part + 1}" for part in range(labeller.num_parts)]
            write_coco(path, present, names, table.rows if table else {})

    written += [path for path in of_all_pictures(config, labeller) if path.exists()]
    paths = (path for _, files in work for of_picture in files for path in of_picture.values())
    print(f"{count} pictures, {len(written)} files in {os.path.commonpath([path.parent for path in paths])}")
    if config.images is None:
        data = f"dataset_name={config.dataset_name} dataset_root={config.dataset_root}"
        print(f"To use them: {data} dataset.eval_mask=supervised")


def run(
    config: DictConfig,
    labeller: Labeller,
    fabric: Fabric,
    work: list[tuple[Source, Files]],
    chosen: list[list[int]],
    table: PartTable | None,
) -> tuple[list[Path], int]:
    """Predict the chosen pictures of each source and write their files, and their rows in the table if there is one.

    Returns:
        The files, and of how many pictures.
    """
    written, empty, skipped, count = [], [], [], 0
    what = "masks" if labeller.gives_masks else "parts"
    for (pictures, files), places in zip(work, chosen, strict=True):
        unread: dict[int, str] | None = {} if config.dataset.on_error == "skip" else None
        found_in = predictions(
            labeller,
            pictures,
            image_size=config.image_size,
            batch_size=config.evaluation.batch_size,
            num_workers=config.loader.num_workers,
            device=fabric.device,
            indices=places,
            skipped=unread,
            with_probabilities=config.probabilities,
        )
        bar = {"console": stderr, "transient": True, "disable": not stderr.is_terminal}
        for index, sample, found in track(found_in, f"predicting {what}", total=len(places), **bar):
            write(files[index], sample.image, found, 0 if labeller.gives_masks else labeller.num_parts)
            if table is not None:
                with told(table.path):
                    table.add(part_rows(sample.name, found.labels, found.certainty, labeller.num_parts))
            written += files[index].values()
            count += 1
            if not found.labels.any():
                empty.append(sample.name)
        skipped += (unread or {}).values()
    if empty:
        print(f"No {what} found in {len(empty)} of them: {', '.join(empty[:3])}{' ...' if empty[3:] else ''}")
    if skipped:
        print(f"{len(skipped)} pictures are skipped and have none. The first: {skipped[0]}")
    return written, count


def predict_masks_first(given: DictConfig, config: DictConfig, labeller: Labeller, fabric: Fabric) -> str:
    """Write the masks of the pictures by ``foreground``, once it is known that the parts can be written too.

    Args:
        given: the config of the command line.
        config: that of the checkpoint of parts.
        labeller: of that checkpoint.

    Returns:
        The folder of the masks.

    Raises:
        UserError: one of the checkpoints finds something else, or files are there already.
    """
    if labeller.gives_masks:
        raise UserError(f"{config.checkpoint} predicts masks itself: leave out foreground.")
    own = OmegaConf.merge(given, {"checkpoint": given.foreground})
    of_masks, checkpoint, own = of_checkpoint(own, fabric)
    if not of_masks.gives_masks:
        raise UserError(
            f"foreground={given.foreground} was trained with method={own.method.name} and finds no masks: give a run "
            "of method=foreground (docs/masks.md)."
        )
    parts = files_of_a_folder(config, labeller)
    to_write(config, parts, of_all_pictures(config, labeller))
    ((pictures, files),) = files_of_a_folder(own, of_masks)
    work = [(pictures, [{"mask": of_picture["label_map"]} for of_picture in files])]
    own.probabilities = False
    run(own, of_masks, fabric, work, to_write(own, work, []), None)
    return str(Path(config.output_dir, "masks"))


def to_write(
    config: DictConfig, work: list[tuple[Source, Files]], of_all: list[Path], table: PartTable | None = None
) -> list[list[int]]:
    """The places of the pictures that are to be predicted, for each source.

    Raises:
        UserError: one of their files is there, and is not to be overwritten.
    """
    chosen = []
    for pictures, files in work:
        done = (
            config.only_missing and there(of_picture) and (table is None or pictures.sample_name(place) in table)
            for place, of_picture in enumerate(files)
        )
        chosen.append([place for place, is_done in enumerate(done) if not is_done])
    if not (config.overwrite or config.only_missing):
        paths = [path for _, files in work for of_picture in files for path in of_picture.values()]
        refuse_to_overwrite(paths + of_all)
    return chosen


def of_all_pictures(config: DictConfig, labeller: Labeller) -> list[Path]:
    """The files that are of all pictures together."""
    if config.images is None:
        return []
    names = [ABOUT] + [TABLE] * (not labeller.gives_masks) + [COCO] * (config.format == "coco")
    return [Path(config.output_dir, name) for name in names]


def notes_of(config: DictConfig, labeller: Labeller, work: list[tuple[Source, Files]]) -> list[str]:
    """What a reader of the results should know."""
    notes = list(dict.fromkeys(note for pictures, _ in work for note in pictures.notes))
    if not labeller.has_background and config.masks is None and "clusters" not in labeller.caption:
        notes.append(
            "There are no masks, and the network knows no background: the background gets parts as well. Give "
            "masks=DIR, or foreground=RUN, a run of method=foreground that predicts them (docs/masks.md)."
        )
    return notes


def about(config: DictConfig, checkpoint: Checkpoint, labeller: Labeller) -> dict[str, object]:
    """What made the files, and what their labels look like, for ``prediction.json``."""
    settings = ("images", "masks", "foreground", "image_size", "precision", "probabilities", "format")
    labels = range(labeller.num_parts + 1)
    return {
        "checkpoint": str(checkpoint.file),
        "sha256": digest_of(checkpoint.file),
        "updates": checkpoint.step,
        "method": config.method.name,
        "num_parts": labeller.num_parts,
        "settings": {key: config[key] for key in settings},
        "colours": {str(label): "#" + bytes(colours(np.array(label)).tolist()).hex() for label in labels},
        "versions": versions(),
    }


def refuse_another_checkpoint(path: Path, made_by: Mapping[str, object]) -> None:
    """Raises UserError where ``prediction.json`` is there and of another checkpoint: its files are not to be mixed."""
    if not path.is_file():
        return
    with foreign(path, "prediction.json"):
        before = json.loads(path.read_text())
        if before["sha256"] != made_by["sha256"]:
            raise UserError(
                f"{path.parent} holds what another checkpoint ({before['checkpoint']}) has found: only_missing=true "
                "would mix the two. Give another output_dir, or overwrite=true."
            )


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write it whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Where a file is written: what the system says of it becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror or error}.") from error


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
        on_error=config.dataset.on_error,
    )
    output = Path(config.output_dir)
    files = []
    for index in range(len(pictures)):
        name = pictures.sample_name(index)
        masks, parts = output / f"masks/{pictures.stem(index)}.png", output / f"label_maps/{name}.png"
        of_picture = {"label_map": masks if labeller.gives_masks else parts, "overlay": output / f"overlays/{name}.png"}
        if config.probabilities:
            of_picture["probabilities"] = output / f"probabilities/{name}.npy"
        files.append(of_picture)
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


def write(files: dict[str, Path], image: np.ndarray, found: Found, num_parts: int) -> None:
    """
    Args:
        files: where to write what.
        image: (H, W, 3) uint8, the picture.
        found: in it.
        num_parts: that a legend is to have; 0: there is none.

    Raises:
        UserError: a file cannot be written.
    """
    for kind, path in files.items():
        # Interrupted, it leaves no half a file that looks like a whole one.
        temporary = path.with_name(f".{path.stem}.part{path.suffix}")
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "label_map":
                save_label_map(temporary, found.labels)
            elif kind == "mask":
                Image.fromarray(found.labels).save(temporary)
            elif kind == "overlay":
                overlay = painted(image, found.labels)
                Image.fromarray(with_legend(overlay, num_parts) if num_parts else overlay).save(temporary)
            else:
                np.save(temporary, found.probabilities)
            os.replace(temporary, path)


if __name__ == "__main__":
    app.run("predict", predict, PredictConfig)
