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
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
from datasets.base import NoPictures, Source, forced
from datasets.files import foreign, pictures_in, some
from datasets.folder import ABOUT, TRY_AGAIN, WITHOUT_OBJECT
from datasets.lists import lists_of
from datasets.pictures import Pictures
from datasets.sample import Remarks
from evaluation.labellers import foreground
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.palette import colours, save_label_map, with_legend
from evaluation.part_files import PartTable, part_rows, write_coco
from evaluation.report import painted
from evaluation.whole_pictures import Found, predictions
from models import pretrained
from models.weights import require_place
from utils import checkpoints
from utils.checkpoints import Checkpoint
from utils.console import stderr
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import digest_of, written_whole
from utils.run_directory import argument, versions

# For each picture the files to write, by what they hold: mask, label_map, overlay, probabilities.
Files = list[dict[str, Path]]
# Of all pictures together, in output_dir.
TABLE, COCO = "parts.csv", "coco.json"  # beside ABOUT
# Keys of dataset that pictures of one's own are read with.
READING = ("mask_threshold", "mask_values", "box_padding", "ignore_label")


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


def work_of(config: DictConfig, gives_masks: bool) -> list[tuple[Source, Files]]:
    """The pictures, by their sources, and the files to write of each."""
    return files_of_a_folder(config, gives_masks) if config.images else masks_of_a_data_set(config, gives_masks)


def to_write(
    config: DictConfig, gives_masks: bool, work: list[tuple[Source, Files]], table: PartTable | None = None
) -> list[list[int]]:
    """The places of the pictures that are to be predicted, for each source.

    Raises:
        UserError: one of their files is there, and is not to be overwritten.
    """
    chosen = []
    for pictures, files in work:
        done = (
            config.only_missing
            and there(of_picture, gives_masks)
            and (table is None or pictures.sample_name(place) in table)
            for place, of_picture in enumerate(files)
        )
        chosen.append([place for place, is_done in enumerate(done) if not is_done])
    if not (config.overwrite or config.only_missing):
        paths = [path for _, files in work for of_picture in files for path in of_picture.values()]
        refuse_to_overwrite(paths + of_all_pictures(config, gives_masks, work))
    return chosen


def of_all_pictures(config: DictConfig, gives_masks: bool, work: list[tuple[Source, Files]]) -> list[Path]:
    """The files that are of all pictures together, what made them first."""
    names = [ABOUT] + [TABLE] * (not gives_masks) + [COCO] * (config.format == "coco")
    if config.images is None:
        folders = {of_picture["mask"].parent for _, files in work for of_picture in files}
        return [Path(os.path.commonpath(folders), ABOUT)]
    return [output_of(config, gives_masks) / name for name in names]


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


def refuse_a_mixture(
    config: DictConfig, work: list[tuple[Source, Files]], made_by: Mapping[str, object], gives_masks: bool
) -> None:
    """See that ``prediction.json`` will be about all that is there.

    Raises:
        UserError: what another network or other settings have found would stay under a new one.
    """
    path, *_ = of_all_pictures(config, gives_masks, work)
    if not path.is_file() or not (config.only_missing or config.overwrite):
        return
    with foreign(path, "prediction.json"):
        before = json.loads(path.read_text())
        unlike = []
        if before.get("sha256") != made_by.get("sha256"):  # none of published networks, which fill each other's gaps
            of_others = before.get("pretrained") and f"pretrained={before['pretrained']['name']}"
            unlike.append(of_others or f"another checkpoint ({before['checkpoint']})")
        if before.get("foreground_sha256", made_by["foreground_sha256"]) != made_by["foreground_sha256"]:
            unlike.append(f"masks of another foreground={before['settings']['foreground']}")
        for key in ("masks", "image_size", "precision", "probabilities", *READING):
            if (value := before["settings"].get(key, now := made_by["settings"][key])) != now:
                unlike.append(f"{key}={'null' if value is None else value}")
    everything = [[*of_picture.values()] for _, files in work for of_picture in files]
    stay = config.overwrite or not gives_masks or any(all(path.exists() for path in own) for own in everything)
    if not (unlike and stay):
        return  # masks made by hand have no overlay
    found = f"{path.parent} holds what was found with {', '.join(unlike)}"
    instead = "Give another output_dir, or overwrite=true" if config.images else "Give overwrite=true"
    instead += ", which replaces masks made by hand too" * gives_masks
    if config.only_missing:
        raise UserError(f"{found}: only_missing=true would mix the two. {instead}.")
    renewed = {pictures.sample_name(place) for pictures, _ in work for place in range(len(pictures))}
    if gives_masks:  # of a mask made by hand, or of a data set, there is no overlay
        overlays = path.parent / "overlays"
        names = pictures_in(overlays, "")[0] if overlays.is_dir() else {}
    else:
        names = PartTable(path.parent / TABLE, made_by["num_parts"]).rows
    if others := [name for name in names if name not in renewed]:
        raise UserError(
            f"{found}, {len(others)} pictures of it that are not among those to predict now: {some(others, 3)}. "
            "overwrite=true would mix the two: give another output_dir, or all pictures."
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


@contextmanager
def taken_back(paths: list[Path], work: list[tuple[Source, Files]]) -> Iterator[None]:
    """Where a prediction ends before it has any picture's file: what it has begun is deleted, folders too."""
    of_pictures = [path for _, files in work for of_picture in files for path in of_picture.values()]
    begun = [path for path in paths if not path.exists()]
    folders = {folder for path in (*paths, *of_pictures) for folder in path.parents if not folder.exists()}
    try:
        yield
    except BaseException:
        if not any(path.exists() for path in of_pictures):
            for path in begun:
                with suppress(OSError):
                    path.unlink()
            for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
                with suppress(OSError):  # what is in it is not ours
                    folder.rmdir()
        raise


def masks_of_a_data_set(config: DictConfig, gives_masks: bool) -> list[tuple[Source, Files]]:
    """Both splits, as an evaluation reads them, and where it looks for predicted masks.

    Raises:
        UserError: the checkpoint finds parts, or the data set is not there.
    """
    if not gives_masks:
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


def files_of_a_folder(config: DictConfig, gives_masks: bool) -> list[tuple[Pictures, Files]]:
    """The pictures in ``config.images`` and their files in the folder of :func:`output_of`.

    Label maps of parts are named as ``evaluate.py predictions=DIR`` looks for them, masks as a folder of one's own
    pictures has them.

    Raises:
        UserError: there is no such folder, no pictures, or a mask that could not be replaced.
    """
    output = output_of(config, gives_masks)
    pictures = Pictures(
        config.images,
        config.masks,
        box_padding=config.dataset.get("box_padding"),
        forced=forced(config.dataset.get("mask_threshold"), config.dataset.get("mask_values")),
        ignore_label=config.dataset.ignore_label,
        on_error=config.dataset.on_error,
    )
    made = pictures_in(output / "masks", "")[0] if gives_masks and (output / "masks").is_dir() else {}
    files = []
    for index in range(len(pictures)):
        name, stem = pictures.sample_name(index), pictures.stem(index)
        of_picture = {"probabilities": output / f"probabilities/{name}.npy"} if config.probabilities else {}
        of_picture["overlay"] = output / f"overlays/{name}.png"
        # A mask made by hand may be of another type: under two endings there would be two.
        masks, parts = made.get(stem, output / f"masks/{stem}.png"), output / f"label_maps/{name}.png"
        files.append(of_picture | {"label_map": masks if gives_masks else parts})
    if others := [path for path in made.values() if config.overwrite and path.suffix != ".png"]:
        raise UserError(f"{others[0]} is not replaced by a PNG: take it away, or give only_missing=true to keep it.")
    return [(pictures, files)]


def output_of(config: DictConfig, gives_masks: bool) -> Path:
    """``output_dir``; for masks of DIR/images it is DIR by default, whose masks a folder of one's own pictures reads.

    Raises:
        UserError: there is none, or it is in the folder of pictures.
    """
    if config.output_dir is None and gives_masks and Path(config.images).name == "images":
        return Path(config.images).parent
    if config.output_dir is None:
        raise UserError("images=DIR needs a place for what is found in them: give output_dir=OUT.")
    output, images = Path(config.output_dir), Path(config.images)
    if images.is_dir() and output.resolve().is_relative_to(images.resolve()):
        raise UserError(
            f"output_dir={output} is in images={images}, where what is found would be taken for pictures itself: give "
            "an output_dir beside it."
        )
    return output


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
        f"until it has a mask, drawn by hand or found with {TRY_AGAIN}."
    )


def there(files: dict[str, Path], gives_masks: bool) -> bool:
    """Whether a picture is done: its files are there, but for the overlay of a mask, which may be made by hand."""
    return all(path.exists() for kind, path in files.items() if kind != "overlay" or not gives_masks)


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
    app.run("predict", predict, PredictConfig, inputs)
