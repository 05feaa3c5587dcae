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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from conf import app
from conf.schema import PredictConfig
from conf.trained import tells_own_data
from datasets.base import Source
from datasets.files import some
from datasets.folder import WITHOUT_OBJECT
from datasets.lists import lists_of
from datasets.sample import Remarks
from evaluation.labellers import foreground
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.palette import colours
from evaluation.part_files import PartTable, part_rows, write_coco
from evaluation.predicted_files import (
    COCO,
    READING,
    TABLE,
    Files,
    beside,
    files_of_a_folder,
    list_without_object,
    of_all_pictures,
    output_of,
    refuse_a_mixture,
    taken_back,
    to_write,
    told,
    work_of,
    write,
    write_json,
)
from evaluation.whole_pictures import predictions
from models import pretrained
from models.weights import require_place
from utils import checkpoints
from utils.checkpoints import Checkpoint
from utils.console import stderr
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import digest_of
from utils.run_directory import argument, versions


@dataclass
class Done:
    """What was predicted.

    Attributes:
        written: the files.
        count: of how many pictures.
        empty: names of those in which nothing was found.
        skipped: what is wrong with each of those that cannot be read.
        remarks: of the files that were read.
    """

    written: list[Path] = field(default_factory=list)
    count: int = 0
    empty: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)


def predict(config: DictConfig) -> None:
    """One pass over the pictures, batch by batch; each one's files are written as soon as they are known."""
    set_determinism(config.deterministic)
    fabric, given = build_fabric(config.device, config.precision), config
    labeller, checkpoint, config, work = inputs(config, fabric)
    if labeller is None:
        to_write(config, True, work)  # what is in the way is told before weights are fetched
        labeller = foreground.of_predictor(fabric.setup_module(pretrained.build(config.pretrained)))
    output = None if config.images is None else output_of(config, labeller.gives_masks)
    made_by = about(config, checkpoint, labeller)
    # Before masks of the pictures are predicted, if they are.
    refuse_a_mixture(config, work, made_by, labeller.gives_masks)
    if config.foreground is not None:
        config.masks = predict_masks_first(given, config, labeller, fabric)
        work = work_of(config, labeller.gives_masks)

    # Whatever is in the way is found before the first picture.
    table = PartTable(output / TABLE, labeller.num_parts) if output and not labeller.gives_masks else None
    chosen = to_write(config, labeller.gives_masks, work, table)
    if output is None and checkpoint:
        tells_own_data(checkpoint.config, config, lists_of(work[-1][0]))  # the test split
    for note in notes_of(config, labeller, work):
        print(note)
    # An empty mask would be taken for one; of a data set, whose evaluation asks for all of them, it is one.
    no_empty_mask = output is not None and labeller.gives_masks
    of_all = of_all_pictures(config, labeller.gives_masks, work)
    with taken_back(of_all, work):
        with told(of_all[0]):
            write_json(of_all[0], made_by)
        if table is not None:
            with told(table.path):
                table.begin(work[0][0].sample_name(place) for place in chosen[0])
        done = run(config, labeller, fabric, work, chosen, table, no_empty_mask)
    if config.format == "coco":
        with told(path := output / COCO):
            ((pictures, files),) = work
            maps = {pictures.sample_name(place): of_one["label_map"] for place, of_one in enumerate(files)}
            present = {name: file for name, file in maps.items() if file.exists()}
            names = ["object"] if labeller.gives_masks else [f"part {part + 1}" for part in range(labeller.num_parts)]
            write_coco(path, present, names, table.rows if table else {})

    done.written += [path for path in of_all if path.exists()]
    paths = (path for _, files in work for of_picture in files for path in of_picture.values())
    print(f"{done.count} pictures, {len(done.written)} files in {os.path.commonpath([path.parent for path in paths])}")
    tell(done, labeller)
    if done.empty and no_empty_mask:
        print(list_without_object(output / WITHOUT_OBJECT, done.empty))
    found_any = len(done.empty) < sum(len(pictures) for pictures, _ in work)
    if output is None and found_any:
        data = f"dataset_name={config.dataset_name} dataset_root={config.dataset_root}"
        for_training = " dataset.train_mask=supervised" * (checkpoint is None)  # which others have trained
        print(f"To use them: {data}{for_training} dataset.eval_mask=supervised")
    elif output and labeller.gives_masks and found_any and beside(config.images, output):
        root = shlex.quote(argument("dataset_root", output))
        print(f"Look at them in overlays/. To train with them: python train.py dataset_name=folder {root}")


def inputs(
    config: DictConfig, fabric: Fabric | None = None
) -> tuple[Labeller | None, Checkpoint | None, DictConfig, list[tuple[Source, Files]]]:
    """What predicts, of a checkpoint; that; the config with its settings; the pictures and the files to write of each.

    Args:
        fabric: as of ``evaluation.labellers.trained.of_checkpoint``.

    Raises:
        UserError: the checkpoint, pictures, masks or a file of weights are not there or do not fit, or the checkpoint
            finds something else.
    """
    labeller = checkpoint = None
    if config.pretrained is None:
        labeller, checkpoint, config = of_checkpoint(config, fabric)
    gives_masks = labeller is None or labeller.gives_masks
    if config.task not in (None, finds := "foreground" if gives_masks else "parts"):
        named = config.checkpoint or f"pretrained={config.pretrained.name}"
        raise UserError(f"{named} finds the {finds}: leave out task={config.task}.")
    if labeller and labeller.needs_fit:
        raise UserError(
            f"{config.checkpoint} was trained with method={config.method.name} and gives features, not clusters: these "
            f"are fitted to a data set, give python evaluate.py checkpoint={config.checkpoint}."
        )
    work = work_of(config, gives_masks)
    if config.foreground is not None:
        checkpoints.require(Path(config.foreground))
    if config.pretrained is not None:
        require_place(config.pretrained.weights, "pretrained.weights")
    return labeller, checkpoint, config, work


def run(
    config: DictConfig,
    labeller: Labeller,
    fabric: Fabric,
    work: list[tuple[Source, Files]],
    chosen: list[list[int]],
    table: PartTable | None,
    no_empty_mask: bool = False,
) -> Done:
    """Predict the chosen pictures of each source and write their files, and their rows in the table if there is one.

    Args:
        no_empty_mask: a picture in which nothing is found gets no files; those of an earlier run are deleted.
    """
    done = Done()
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
        doing = f"predicting {'masks' if labeller.gives_masks else 'parts'}"
        for index, sample, found in track(found_in, doing, total=len(places), **bar):
            done.remarks.add(sample.remarks)
            done.count += 1
            if not found.labels.any():
                done.empty.append(sample.name)
                if no_empty_mask:
                    for path in files[index].values():
                        path.unlink(missing_ok=True)
                    continue
            write(files[index], sample.image, found, 0 if labeller.gives_masks else labeller.num_parts)
            if table is not None:
                with told(table.path):
                    table.add(part_rows(sample.name, found.labels, found.certainty, labeller.num_parts))
            done.written += files[index].values()
        done.skipped += (unread or {}).values()
    return done


def tell(done: Done, labeller: Labeller) -> None:
    """Print what a reader of the results has to know of the pictures."""
    for line in done.remarks.lines():
        print(line)
    if done.empty:
        what = "masks" if labeller.gives_masks else "parts"
        print(f"No {what} found in {len(done.empty):,} of them: {some(done.empty)}.")
    if done.skipped:
        print(f"{len(done.skipped)} pictures are skipped and have none. The first: {done.skipped[0]}")


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
    to_write(config, False, files_of_a_folder(config, False))
    ((pictures, files),) = files_of_a_folder(own, True)
    work = [(pictures, [{"mask": of_picture["label_map"]} for of_picture in files])]
    own.probabilities, own.format = False, "png"
    tell(run(own, of_masks, fabric, work, to_write(own, True, work), None), of_masks)
    return str(Path(config.output_dir, "masks"))


def notes_of(config: DictConfig, labeller: Labeller, work: list[tuple[Source, Files]]) -> list[str]:
    """What a reader of the results should know."""
    notes = list(dict.fromkeys(note for pictures, _ in work for note in pictures.notes))
    if not labeller.has_background and config.masks is None and "clusters" not in labeller.caption:
        notes.append(
            "There are no masks, and the network knows no background: the background gets parts as well. Give "
            "masks=DIR, or foreground=RUN, a run of method=foreground that predicts them (docs/masks.md)."
        )
    return notes


def about(config: DictConfig, checkpoint: Checkpoint | None, labeller: Labeller) -> dict[str, object]:
    """What made the files, and what their labels look like, for ``prediction.json``."""
    settings = ("images", "masks", "foreground", "image_size", "precision", "probabilities", "format")
    labels, reading = range(labeller.num_parts + 1), OmegaConf.to_container(config.dataset)
    made_by = {"pretrained": OmegaConf.to_container(config.pretrained)} if config.pretrained else {}
    if checkpoint:
        made_by = {"checkpoint": str(checkpoint.file), "sha256": digest_of(checkpoint.file), "updates": checkpoint.step}
        made_by["method"] = config.method.name
    of_foreground = digest_of(checkpoints.find(config.foreground).file) if config.foreground else None
    return made_by | {
        "foreground_sha256": of_foreground,
        "num_parts": labeller.num_parts,
        "settings": {key: config[key] for key in settings} | {key: reading.get(key) for key in READING},
        "colours": {str(label): "#" + bytes(colours(np.array(label)).tolist()).hex() for label in labels},
        "versions": versions(),
    }


if __name__ == "__main__":
    app.run("predict", predict, PredictConfig, inputs)
