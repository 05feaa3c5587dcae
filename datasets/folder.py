"""A folder of anyone's pictures: ``images/`` and ``masks/``, perhaps ``parts/``, ``keypoints.csv``, ``objects.csv``."""

import csv
import os
import shlex
import zlib
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path, PureWindowsPath

import numpy as np

from conf.fields import number
from datasets import base
from datasets.base import Mask, NoPictures, Split, given
from datasets.box_crops import BoxCrops
from datasets.crops import mirrored_indices
from datasets.files import ENDINGS, HELP, MissingFile, read_turned_picture, require_masks, shape_and_turn, some
from datasets.masks import LabelMap, mask_box, read_mask, read_part_map, remarks_of, united
from datasets.names import alike, as_pictures_are_called, of_system, pictures_in, spellings, spelt_alike, stem_of
from datasets.places import Places
from datasets.rows import check_keypoints, coordinate, far_outside, flag, read_lines, read_names
from datasets.sample import Purpose, Sample
from datasets.turns import swaps_sides
from utils.errors import UserError
from utils.run_directory import argument

KEYPOINTS = "keypoints.csv"
OBJECTS, BOX = "objects.csv", ("x", "y", "width", "height")
WITHOUT_OBJECT = "without_object.txt"  # predict.py lists there in which pictures it has found nothing
ABOUT = "prediction.json"  # what made predicted masks, beside them
TRY_AGAIN = (
    "other classes (pretrained.classes), a lower pretrained.score or another network (pretrained=deeplab or maskrcnn), "
    "and only_missing=true"
)
MASKS = {"gt": "masks", "supervised": "supervisedlabels", "unsupervised": "pseudolabels"}
_LOOKED_AT = 200  # pictures, before any is read
MAX_LABEL = 255  # part maps hold bytes
_HEADERS = {"name", "names", "file", "files", "filename", "file_name", "image", "images", "path", "picture", "pictures"}


@dataclass
class Options(base.Options, base.Masked, base.Boxed):
    """The keys of ``dataset``; ``test_share`` of the pictures are held out where no list says which."""

    test_share: float = number(above=0, high=1)


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "Folder":
    """See ``datasets.build``."""
    root, mask = dataset_root / options.folder, options.mask(purpose)
    trains_without = (purpose, options.train_mask) == ("evaluation", "none")
    if trains_without and mask == "gt" and not (root / MASKS[mask]).is_dir():
        mask = "none"  # who trains without masks has none to evaluate with either
    source = Folder(root, split, mask, options)
    if trains_without and (lacking := source.without_mask()):
        told = (
            f"{source.name}: {len(lacking):,} of {len(source):,} pictures of the {split} split have no mask in "
            f"{root / MASKS[mask]} ({some(lacking, 3)}), which the evaluation reads. To do without them, as the "
            "training does: dataset.eval_mask=none."
        )
        if split == "test":
            raise MissingFile(f"{told} {HELP}")
        source.notes.append(told)  # not every evaluation fits something on them
    return source


class Folder(BoxCrops):
    """Pictures with masks, matched by name, and whatever else is known about them.

    ``images/`` may hold folders. The mask of ``images/a/b.jpg`` is ``masks/a/b.png``, and its label map, if there is
    one, ``parts/a/b.png``; every file may be of any common type. What is object in a mask is said in
    ``datasets.masks``. The object's box is that of its mask, or the whole picture where the mask is empty.

    Where there is a ``parts/``, every held-out picture needs a label map: 0 is background, 1.. are the parts, named by
    lines ``index name`` of ``parts/parts.txt`` if that exists. ``keypoints.csv`` has the columns ``name`` (of the
    picture), ``keypoint``, ``x``, ``y`` (zero-based pixels) and, if need be, ``visible`` (0 or 1); keypoints without a
    row are hidden. ``objects.csv`` has the column ``name`` (of the picture), and ``class``, those of its object's box
    (``x``, ``y``, ``width``, ``height``, pixels), or both.

    Held out are the pictures of ``test.txt``, or those that ``train.txt`` does not list, a name a line; with both files
    pictures in neither are not used. Without them it is a share of the pictures, drawn by their names. Pictures that
    ``without_object.txt`` lists and that have no mask are not used where masks are.

    Attributes:
        name: of the data set.
        split: as given.
        num_classes: of ``objects.csv``, numbered from 1 by their names' order; 0: there are none.
        keypoint_names: from ``keypoints.csv``; empty where no held-out picture shows a keypoint.
        part_names: of labels 1.. of the label maps, or None where there is no ``parts/``.
        notes: what a log should say about this data.
    """

    name = "folder"
    pixel_classes: list[str] = []

    def __init__(self, root: Path | str, split: Split, mask: Mask | None, options: Options) -> None:
        """List the files; they are read one by one, when asked for.

        Args:
            root: the folder that holds ``images/``.
            split: see above.
            mask: ``masks/``, or predicted ones in ``supervisedlabels/`` or ``pseudolabels/``; "none" and None read none
                and take the whole picture.
            options: of the crops, see ``BoxCrops``, and of the split.

        Raises:
            UserError: something is missing or malformed; the message says what and where.
        """
        super().__init__(options, options.flip_probability)
        self.split = split
        self.notes: list[str] = []
        self._root, self._mask = Path(root), None if mask == "none" else mask
        self.has_masks = self._mask is not None
        self._mask_rules, self._ignore_label = options.mask_rules(options.ignore_label), given(options.ignore_label)
        self._pictures = self._pictures_in("images")
        if not self._pictures:
            told = " ".join(
                [f"{self._root / 'images'} holds no picture: known are {' '.join(sorted(ENDINGS))}.", *self.notes]
            )
            raise UserError(f"{told} {HELP}")
        self._alike = alike(self._pictures)
        self._masks = self._list_masks(self._mask) if self.has_masks else {}
        self._used = self._leave_out(self._hold_out(options.test_share))
        self._stems = [stem for stem, is_test in self._used.items() if is_test == (split == "test")]
        if not self._stems:
            told = f"{self._root} has no picture of the {split} split, by train.txt and test.txt if they are there."
            raise NoPictures(" ".join([told, *self.notes, HELP]))
        self.notes.insert(0, f"{self.name}: {len(self):,} of {len(self._pictures):,} pictures, the {split} split.")

        self.part_names, self._part_maps = None, {}
        if (self._root / "parts").is_dir():
            self._part_maps = as_pictures_are_called(self._pictures_in("parts", ["parts.txt"]), self._pictures)
            names = self._root / "parts/parts.txt"
            if names.is_file():
                self.part_names = read_names(names)
                if len(self.part_names) >= MAX_LABEL == self._ignore_label:
                    self._ignore_label = None  # it has a name
            else:
                self.part_names = [f"part {label}" for label in range(1, MAX_LABEL + (self._ignore_label != MAX_LABEL))]
        self.keypoint_names, self._keypoints = [], {}
        self._places: dict[str, Places] = {}
        if (self._root / KEYPOINTS).is_file():
            self._read_keypoints(stem for stem, is_test in self._used.items() if is_test)
        self._labels, self._boxes, self.num_classes = {}, {}, 0
        if (self._root / OBJECTS).is_file():
            self._read_objects(self._used)
        self.mirrored_keypoints = mirrored_indices(self.keypoint_names)

    def _pictures_in(self, folder: str, beside: Sequence[str] = ()) -> dict[str, Path]:
        advice = "Set dataset_root= to the folder that holds images/ and masks/."
        found, notes = pictures_in(self._root / folder, advice, beside)
        self.notes += notes
        return found

    def _list_masks(self, mask: Mask) -> dict[str, Path]:
        folders = {choice: self._root / folder for choice, folder in MASKS.items()}
        folder = folders.pop(mask)
        masks = as_pictures_are_called(
            self._pictures_in(MASKS[mask], [ABOUT]) if folder.is_dir() else {}, self._pictures
        )
        if not masks and not any(other.is_dir() for other in folders.values()):
            raise MissingFile(f"{self.name}: no masks in {folder}. {self._ways_to_masks()} See docs/masks.md.")
        require_masks(self.name, mask, {mask: folder, **folders})
        if masks.keys().isdisjoint(self._pictures):
            first, picture = (str(next(iter(found.values()), "none")) for found in (masks, self._pictures))
            raise UserError(
                f"No mask in {folder} has the name of a picture. The first mask is {first}, the first picture is "
                f"{picture}: give masks the names of their pictures, whatever the ending. {HELP}"
            )
        if spare := [stem for stem in masks if stem not in self._pictures]:
            self.notes.append(f"{len(spare):,} masks in {folder} have no picture: {some(spare)}.")
        return masks

    def _ways_to_masks(self) -> str:
        """What can be done where there is none at all."""
        images, root, listed = *self._arguments(), self._root / WITHOUT_OBJECT
        if listed.is_file():
            first = f"in the pictures of {listed} predict.py has found nothing, and may with {TRY_AGAIN}"
        else:
            first = (
                f"a network of torchvision's makes them, python predict.py task=foreground pretrained=maskrcnn {images}"
            )
        return (
            f"Three ways on: {first}; one learns from a few made by hand, python train.py method=foreground "
            "dataset_name=folder dataset_root=FEW, where FEW holds those pictures and masks, and makes the rest, "
            f"python predict.py checkpoint=RUN {images} only_missing=true; or each object is taken to fill its "
            f"picture, python train.py dataset_name=folder {root} dataset.train_mask=none (and dataset.eval_mask=none "
            "in an evaluation)."
        )

    def ways_on(self, missing: Collection[Path]) -> str:
        """What can be done where these files are not there, and masks of some pictures are among them; else nothing."""
        lacking = [stem for stem in self._used if self.has_masks and stem not in self._masks]
        lacking = [stem for stem in lacking if os.path.isfile(self._pictures[stem])]
        if self._mask == "unsupervised" or not lacking or not missing:
            return ""
        images, root = self._arguments()
        pictures = images if self._mask == "gt" else f"dataset_name=folder {root}"
        skip, left_out = " dataset.on_error=skip", "dataset.on_error=skip trains without them"
        if held_out := sum(self._used[stem] for stem in lacking):
            skip = ""
            left_out = (
                f"listed in {self._root / WITHOUT_OBJECT}, a name a line, they are left out until they have one "
                f"(dataset.on_error=skip does so in training alone, and {held_out:,} are held out)"
            )
        return (
            f"{len(lacking):,} of {len(self._used):,} pictures have no mask. Four ways on: python predict.py "
            f"task=foreground pretrained=maskrcnn {pictures} only_missing=true makes them; {left_out}; a network "
            f"learns them from the others, python train.py method=foreground dataset_name=folder {root}{skip}, then "
            f"python predict.py checkpoint=RUN {pictures} only_missing=true makes them; or none is read, "
            "dataset.train_mask=none dataset.eval_mask=none."
        )

    def _arguments(self) -> tuple[str, str]:
        """Of command lines, for the pictures and for the folder."""
        images, root = argument("images", self._root / "images"), argument("dataset_root", self._root)
        return shlex.quote(images), shlex.quote(root)

    def without_mask(self) -> list[str]:
        """Names of the pictures that have no mask where masks are read."""
        found = (index for index, stem in enumerate(self._stems) if self.has_masks and stem not in self._masks)
        return [self.sample_name(index) for index in found]

    def _leave_out(self, held_out: dict[str, bool]) -> dict[str, bool]:
        """Pictures in which nothing was found are not used, unless they have got a mask since.

        Masks do not decide which pictures are held out: a reading without them must hold out the same.
        """
        path = self._root / WITHOUT_OBJECT
        listed = self._named_in(path) if self.has_masks and path.is_file() else ()
        left_out = {stem for stem in listed if stem in held_out and stem not in self._masks}
        if left_out:
            self.notes.append(f"{path}: {len(left_out):,} pictures without a mask are left out.")
        return {stem: is_test for stem, is_test in held_out.items() if stem not in left_out}

    def _hold_out(self, test_share: float) -> dict[str, bool]:
        """For each picture that is used whether it is held out."""
        train, test = (self._listed(self._root / f"{split}.txt") for split in ("train", "test"))
        if train is None and test is None:
            # By a hash of the name, so that neither new pictures nor another order move the others about much.
            order = sorted(self._pictures, key=lambda stem: (zlib.crc32(os.fsencode(stem)), stem))
            test = set(order[: max(1, round(test_share * len(order)))])
        if train is None:
            train = self._pictures.keys() - test
        if test is None:
            test = self._pictures.keys() - train
        if both := sorted(train & test):
            raise UserError(f"{self._root}: in train.txt and in test.txt: {some(both)}. List each picture once. {HELP}")
        return {stem: stem in test for stem in self._pictures if stem in train or stem in test}

    def _listed(self, path: Path) -> set[str] | None:
        if not path.is_file():
            return None
        listed = self._named_in(path)
        # Missing, which reading it will tell.
        missing = {stem: self._root / "images" / spellings(listed[stem], "images")[-1] for stem in listed}
        missing = {stem: missing[stem] for stem in sorted(missing.keys() - self._pictures.keys())}
        if missing and len(missing) == len(listed) and not any(map(os.path.isfile, missing.values())):
            self._refuse_unknown(path, [*missing], *self.notes)
        self._pictures |= missing
        return set(listed)

    def _named_in(self, path: Path) -> dict[str, str]:
        """The stem and the name of each picture in a list; without a header and comments.

        Names may be in quotes, and columns beside them: theirs is the one that the header calls so, or the first.
        """
        found, column = {}, 0
        for place, line in enumerate(map(str.strip, read_lines(path))):
            names = [line]
            if self._stem(line) not in self._pictures:
                tables = _columns(line)
                header = [index for cells in tables for index, cell in enumerate(cells) if cell.lower() in _HEADERS]
                names += [cells[column] for cells in tables if column < len(cells)]
                if not any(self._stem(name) in self._pictures for name in names):
                    if line.startswith("#") or (place == 0 and header):
                        column = header[0] if place == 0 and header else column
                        continue
                    names.sort(key=lambda name: Path(name).suffix.lower() not in ENDINGS)
            name = next((name for name in names if self._stem(name) in self._pictures), names[0])
            if name and not any(of_system(PureWindowsPath(own).name) for own in names):
                found[self._stem(name)] = name
        return found

    def _stem(self, name: str) -> str:
        """What ``pictures_in`` calls a picture that a list names, with its ending or without."""
        meant = [stem for spelt in spellings(name, "images") for stem in (spelt, stem_of(Path(spelt)))]
        found = next((stem for stem in meant if stem in self._pictures), None)
        return found or next(filter(None, (self._alike.get(spelt_alike(stem)) for stem in meant)), meant[-1])

    def _read_keypoints(self, held_out: Iterable[str]) -> None:
        path = self._root / KEYPOINTS
        places: dict[str, dict[str, tuple[float, float, bool]]] = {}
        names: dict[str, None] = {}
        rows = []
        columns, table = _rows(path, ("name", "keypoint", "x", "y"), "name,keypoint,x,y or name,keypoint,x,y,visible")
        for place, row in table:
            if not (row["name"] and row["keypoint"]):
                raise UserError(f"{place}: expected a value in each of the columns {', '.join(columns)}. {HELP}")
            try:
                seen = flag(row.get("visible") or "1")
                x, y = (coordinate(row[axis]) if seen else 0.0 for axis in ("x", "y"))
            except (ValueError, TypeError):
                coco = "" if row.get("visible") != "2" else " (COCO's 2 is 1 here, its 1, hidden, is 0)"
                raise UserError(f"{place}: expected numbers x and y, and visible 0 or 1{coco}: {row}. {HELP}") from None
            stem = self._stem(row["name"])
            of_picture = places.setdefault(stem, {})
            if row["keypoint"] in of_picture:
                raise UserError(f"{place}: a second {row['keypoint']!r} in {row['name']}. {HELP}")
            of_picture[row["keypoint"]] = (x, y, seen)
            if seen:
                rows.append((place, stem, row["keypoint"], (x, y)))
            names[row["keypoint"]] = None

        self._note_unknown(path, places)
        if not any(seen for stem in held_out for *_, seen in places.get(stem, {}).values()):
            self.notes.append(f"{path} has no visible keypoint of a held-out picture, so it is not used.")
            return
        self._require_near(path, rows)
        self.keypoint_names = list(names)
        marked = {
            stem: np.array([(x, y) for x, y, seen in of_picture.values() if seen])
            for stem, of_picture in places.items()
        }
        self._places[KEYPOINTS] = Places(marked, self._pictures)
        for stem in self._stems:
            of_picture = places.get(stem, {})
            self._keypoints[stem] = np.array([of_picture.get(name, (0, 0, 0)) for name in names], float)

    def _require_near(self, path: Path, marked: list[tuple[str, str, str, tuple[float, float]]]) -> None:
        """Refuses keypoints far outside of their pictures, by these' heads; reading a picture refuses the rest.

        Args:
            path: of the table.
            marked: of each visible keypoint where it stands, its picture, its name and its place.

        Raises:
            UserError: the message has the first rows.
        """
        # Of the largest places alone: all pictures' heads take minutes on a network drive.
        farthest: dict[str, float] = {}
        for _, stem, _, place in marked:
            if stem in self._pictures:
                farthest[stem] = max(farthest.get(stem, 0.0), *map(abs, place))
        extents = {}
        for stem in nlargest(_LOOKED_AT, farthest, key=farthest.__getitem__):
            with suppress(UserError):  # the reading of the picture tells it
                (height, width), turn = shape_and_turn(self._pictures[stem])
                # Of a turned one the places may be those of the stored pixels.
                extents[stem] = np.array([max(height, width)] * 2 if swaps_sides(turn) else [width, height])
        lost = [
            "{}: {} of {} at ({:g}, {:g}), not in {} x {} pixels".format(
                where.rpartition(", ")[2], name, self._pictures[stem].name, *place, *extents[stem]
            )
            for where, stem, name, place in marked
            if stem in extents and far_outside(np.array(place), extents[stem])
        ]
        if lost:
            raise UserError(
                f"{path}: keypoints far outside of their pictures ({len(lost):,}): {some(lost, 3)}. Pixels are counted "
                f"from 0, in the pictures of images/. Mend the lines. {HELP}"
            )

    def _read_objects(self, used: Iterable[str]) -> None:
        path = self._root / OBJECTS
        expected = f"name,class or name,{','.join(BOX)} or name,class,{','.join(BOX)}"
        columns, table = _rows(path, ("name",), expected)
        has_class, of_box = "class" in columns, [column for column in BOX if column in columns]
        if not (has_class or of_box) or len(of_box) not in (0, len(BOX)):
            raise UserError(f"{path}, line 1: '{','.join(columns)}' must be {expected}. {HELP}")
        found, classes = set(), {}
        for place, row in table:
            stem = self._stem(row["name"])
            if stem in found:
                raise UserError(f"{place}: a second row of {row['name']}: each picture has one object. {HELP}")
            found.add(stem)
            if has_class:
                if not row["class"]:
                    raise UserError(f"{place}: {row['name']} has no class. {HELP}")
                classes[stem] = row["class"]
            if of_box:
                try:
                    x, y, width, height = (coordinate(row[column]) for column in BOX)
                    if min(width, height) < 1:
                        raise ValueError(row)
                except (ValueError, TypeError):
                    raise UserError(
                        f"{place}: expected numbers {', '.join(BOX)}, the last two 1 or more: {row}. {HELP}"
                    ) from None
                self._boxes[stem] = np.array([[x, y], [x + width - 1, y + height - 1]])
        self._places[OBJECTS] = Places(self._boxes, self._pictures)
        self._note_unknown(path, found)
        if has_class and (without := [stem for stem in used if stem not in classes]):
            raise UserError(
                f"{path}: {len(without):,} pictures have no class: {some(without)}. Give each a row. {HELP}"
            )
        numbers = {name: number for number, name in enumerate(sorted(set(classes.values())), start=1)}
        self._labels, self.num_classes = {stem: numbers[name] for stem, name in classes.items()}, len(numbers)

    def _note_unknown(self, path: Path, stems: Collection[str]) -> None:
        if unknown := [stem for stem in stems if stem not in self._pictures]:
            if len(unknown) == len(stems):
                self._refuse_unknown(path, unknown)
            self.notes.append(f"{path} has {len(unknown):,} pictures that are not there: {some(unknown)}.")

    def _refuse_unknown(self, path: Path, unknown: Sequence[str], *notes: str) -> None:
        picture = next(iter(self._pictures.values()))
        told = (
            f"No name in {path} is that of a picture. The first is {unknown[0][:60]}, the first picture {picture}: "
            "give the names of the pictures, as seen from images/."
        )
        raise UserError(" ".join([told, *notes, HELP]))

    def __len__(self) -> int:
        return len(self._stems)

    def files(self, index: int) -> list[Path]:
        """Every file that sample ``index`` is read from."""
        stem = self._stems[index]
        files = [self._pictures[stem], self._part_map_path(stem)]
        if self._mask is not None:
            files.insert(1, self._mask_path(index))
        return [path for path in files if path is not None]

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        return self._pictures[self._stems[index]].relative_to(self._root / "images").as_posix()

    def mask_path(self, index: int, mask: Mask) -> Path:
        """Where a predicted mask of sample ``index`` is to be written to; one of any type is read."""
        return self._root / MASKS[mask] / f"{self._stems[index]}.png"

    def _mask_path(self, index: int) -> Path:
        return self._masks.get(self._stems[index]) or self.mask_path(index, self._mask)

    def _part_map_path(self, stem: str) -> Path | None:
        if self.part_names is None or (self.split == "train" and stem not in self._part_maps):
            return None
        return self._part_maps.get(stem, self._root / "parts" / f"{stem}.png")

    def __getitem__(self, index: int) -> Sample:
        """Read one picture with its annotation.

        Raises:
            UserError: a file is missing or broken, or a mask, label map or keypoint does not fit its picture.
        """
        stem = self._stems[index]
        path = self._pictures[stem]
        image, turn = read_turned_picture(path)
        mask, part_map = self._mask_of(index, path, image), self._part_map(stem, path, image)
        maps = [label_map for label_map in (mask, part_map) if label_map is not None]
        foreground = np.ones(image.shape[:2], np.uint8) if mask is None else mask.labels
        keypoints, corners = self._keypoints.get(stem), self._boxes.get(stem)
        box, remarks, seen = mask_box(foreground), remarks_of(path, turn, maps), (path, turn, image.shape, maps)
        if keypoints is not None:
            keypoints, visible = keypoints.copy(), keypoints[:, 2] > 0
            keypoints[visible, :2], told = self._places[KEYPOINTS].shown(keypoints[visible, :2], *seen)
            remarks += told
        if corners is not None:
            corners, told = self._places[OBJECTS].shown(corners, *seen)
            remarks += told
            box = _inside(np.sort(corners, axis=0), image, path, self._root / OBJECTS)
        sample = Sample(
            name=self.sample_name(index),
            path=path,
            image=image,
            foreground=foreground,
            label=self._labels.get(stem),
            box=box,
            keypoints=keypoints,
            part_map=None if part_map is None else part_map.labels,
            void=united(*(label_map.void for label_map in maps)),
            remarks=remarks,
        )
        if keypoints is not None:
            check_keypoints(sample, self.keypoint_names, self._root / KEYPOINTS)
        return sample

    def _mask_of(self, index: int, picture_path: Path, image: np.ndarray) -> LabelMap | None:
        if self._mask is None:
            return None
        rules = self._mask_rules | {"ignore_label": self._ignore_label}  # which a part may have
        return read_mask(self._mask_path(index), picture_path, image, **rules)

    def _part_map(self, stem: str, picture_path: Path, image: np.ndarray) -> LabelMap | None:
        path = self._part_map_path(stem)
        if path is None:
            return None
        return read_part_map(
            path,
            picture_path,
            image,
            num_parts=len(self.part_names),
            ignore_label=self._ignore_label,
            refusal=lambda smallest, largest: (
                f"has labels from {smallest} to {largest}: they must be from 0 (background) to {len(self.part_names)}, "
                f"the number of parts in parts/parts.txt or {MAX_LABEL} at most; of void pixels, dataset.ignore_label."
            ),
        )


def _columns(line: str) -> list[list[str]]:
    """A line of a list as one of a table: of columns behind commas, semicolons, tabs, or a name and a blank."""
    found = []
    for mark in ",;\t ":
        with suppress(csv.Error):  # no table at all
            cells = [cell.strip(" '") for cell in next(csv.reader([line], delimiter=mark, skipinitialspace=True), [])]
            if mark != " " or Path("".join(cells[:1])).suffix.lower() in ENDINGS:
                found.append(cells)
    return found


def _rows(path: Path, needed: Sequence[str], expected: str) -> tuple[Sequence[str], list[tuple[str, dict[str, str]]]]:
    """Columns of a CSV file, and its rows after where each stands; UserError where columns are missing.

    Spreadsheets separate with semicolons where the comma is in their numbers, or with tabs; some write capitals, blanks
    around names, and rows of nothing.
    """
    lines = read_lines(path)
    first = "".join(lines[:1])
    separator = next((mark for mark in ",;\t" if {*needed} <= {*_called(first.split(mark))}), ",")
    rows = csv.DictReader(lines, delimiter=separator, skipinitialspace=True, restval="")
    try:
        columns = rows.fieldnames = _called(rows.fieldnames or ())
        read = [(f"{path}, line {rows.line_num}", row) for row in rows]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.reader.line_num}: {error}. Mend the line. {HELP}") from None
    table = [(place, {key: row[key].strip() for key in columns}) for place, row in read]
    if separator != ",":
        for _, row in table:
            row |= {key: row[key].replace(",", ".") for key in ("x", "y", *BOX) if row.get(key)}
    if missing := set(needed).difference(columns):
        raise UserError(
            f"{path}, line 1: no column {', '.join(sorted(missing))} in '{first}'. It must be "
            f"{expected}, separated by commas, semicolons or tabs. {HELP}"
        )
    return columns, [(place, row) for place, row in table if any(row.values())]


def _called(columns: Iterable[str]) -> list[str]:
    """As they are called here; beside ``picture`` the column ``name`` is the keypoint's."""
    names = [column.strip(' "').casefold() for column in columns]
    return [{"picture": "name", "name": "keypoint"}.get(name, name) for name in names] if "picture" in names else names


def _inside(corners: np.ndarray, image: np.ndarray, path: Path, source: Path) -> np.ndarray:
    """A box (x0, y0, x1, y1) of its two corners (2, 2), cut off at the picture's edges; UserError if it is beyond."""
    last = np.array(image.shape[1::-1]) - 1
    cut = corners.clip(0, last)
    if (corners[1] < 0).any() or (corners[0] > last).any():
        height, width = image.shape[:2]
        raise UserError(f"{source}: the box of {path} is not in its {width} x {height} pixels. Mend the line. {HELP}")
    return cut.ravel()
