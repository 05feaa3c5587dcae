"""Where ``predict.py`` writes what it finds, what is in the way there, and the writing of it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image

import datasets
from datasets.base import NoPictures, Source, forced
from datasets.files import foreign, some
from datasets.folder import ABOUT, TRY_AGAIN
from datasets.names import pictures_in
from datasets.pictures import Pictures
from evaluation.palette import save_label_map, with_legend
from evaluation.part_files import PartTable
from evaluation.report import painted
from evaluation.whole_pictures import Found
from utils.errors import UserError
from utils.files import written_whole

# For each picture the files to write, by what they hold: mask, label_map, overlay, probabilities.
Files = list[dict[str, Path]]
# Of all pictures together, in output_dir.
TABLE, COCO = "parts.csv", "coco.json"  # beside ABOUT
# Keys of dataset that pictures of one's own are read with.
READING = ("mask_threshold", "mask_values", "box_padding", "ignore_label")


def work_of(config: DictConfig, gives_masks: bool) -> list[tuple[Source, Files]]:
    """The pictures, by their sources, and the files to write of each."""
    return files_of_a_folder(config, gives_masks) if config.images else masks_of_a_data_set(config, gives_masks)


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


def of_all_pictures(config: DictConfig, gives_masks: bool, work: list[tuple[Source, Files]]) -> list[Path]:
    """The files that are of all pictures together, what made them first."""
    names = [ABOUT] + [TABLE] * (not gives_masks) + [COCO] * (config.format == "coco")
    if config.images is None:
        folders = {of_picture["mask"].parent for _, files in work for of_picture in files}
        return [Path(os.path.commonpath(folders), ABOUT)]
    return [output_of(config, gives_masks) / name for name in names]


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


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write it whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


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
