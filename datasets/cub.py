"""CUB-200-2011 (Wah et al., 2011) and data sets drawn in its layout."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from datasets import base
from datasets.base import Mask, NoPictures, Split, given
from datasets.box_crops import BoxCrops
from datasets.crops import mirrored_indices
from datasets.files import HELP, UnreadableFile, foreign, read_turned_picture, require_masks, stored_labels, turn_of_map
from datasets.masks import (
    FORCE,
    LabelMap,
    as_shown,
    forced_object,
    read_mask,
    read_part_map,
    remarks_of,
    united,
)
from datasets.places import Places
from datasets.rows import check_box, check_keypoints, coordinate, extent, flag, positive, read_names, read_rows
from datasets.sample import Purpose, Sample
from utils.errors import UserError

MASKS: dict[Mask, str] = {
    "gt": "CUB_200_2011/segmentations",
    "supervised": "supervisedlabels",
    "unsupervised": "pseudolabels",
}
_ONE_ANNOTATOR, _ALL_ANNOTATORS = 51, 255  # of five, in a ground-truth mask


@dataclass
class Options(base.Options, base.Masked, base.Boxed):
    """The keys of ``dataset``."""


def build(options: Options, dataset_root: Path, split: Split, purpose: Purpose) -> "CUB":
    """See ``datasets.build``."""
    # Figures must not depend on whether an optional file is there.
    use_cleaned_list = purpose == "training"
    return CUB(dataset_root / options.folder, split, options.mask(purpose), options, use_cleaned_list=use_cleaned_list)


@dataclass
class _CleanedImage:
    """What the cleaned list says of one picture; the mask is packed, eight pixels a byte."""

    box: np.ndarray
    mask: np.ndarray
    shape: tuple[int, int]


class CUB(BoxCrops):
    """Pictures with masks, boxes, keypoints and, in a drawn set, part maps.

    The text files are enough. Where the list of cleaned training images is present
    (``CUB_200_2011/cachedir/cub/data/train_cub_cleaned.mat``), it decides which training images are used, and gives
    their boxes and their ground-truth masks.

    Attributes:
        name: of the data set.
        split: as given.
        keypoint_names: from ``parts/parts.txt``.
        part_names: of labels 1.. of the part maps, or None where the set has no ``part_maps/``.
        notes: what a log should say about this data.
        num_classes: the largest of ``image_class_labels.txt``, of both splits.
    """

    name = "CUB"
    pixel_classes: list[str] = []

    def __init__(
        self, root: Path | str, split: Split, mask: Mask | None, options: Options, *, use_cleaned_list: bool = True
    ) -> None:
        """Read the lists; pictures and masks are read one by one, when asked for.

        Args:
            root: the folder that holds ``CUB_200_2011/`` and the folders of predicted masks.
            split: of ``train_test_split.txt``.
            mask: ``segmentations/`` of CUB, ``supervisedlabels/`` or ``pseudolabels/``; "none" and None read none and
                take the whole picture.
            options: of the crops, see ``BoxCrops``.
            use_cleaned_list: where it is present.

        Raises:
            UserError: something is missing or malformed; the message says what and where.
        """
        super().__init__(options, options.flip_probability)
        self.split = split
        self.notes: list[str] = []
        self._root, self._base = Path(root), Path(root) / "CUB_200_2011"
        self._mask = None if mask == "none" else mask
        self.has_masks = self._mask is not None
        self._mask_rules, self._ignore_label = options.mask_rules(options.ignore_label), given(options.ignore_label)
        self._check_presence()

        self.keypoint_names = read_names(self._base / "parts/parts.txt")
        self.mirrored_keypoints = mirrored_indices(self.keypoint_names)
        part_maps = self._root / "part_maps"
        self.part_names = read_names(part_maps / "parts.txt") if part_maps.is_dir() else None

        self._read_lists()
        self._cleaned: dict[str, _CleanedImage] = {}
        self._cleaned_list = self._base / "cachedir/cub/data/train_cub_cleaned.mat"
        if split == "train" and use_cleaned_list and self._cleaned_list.is_file():
            self._use_cleaned_list(self._cleaned_list)
        else:
            self.notes.append(f"{self.name}: {len(self):,} pictures, the whole {split} split.")
        if not self._ids:
            raise NoPictures(f"{self._base / 'train_test_split.txt'} has no picture of the {split} split. {HELP}")

    def _check_presence(self) -> None:
        if not self._base.is_dir():
            raise UserError(
                f"{self.name}: no folder {self._base}. Set dataset_root= to what holds {self._root.name}/. {HELP}"
            )
        lists = ("images", "train_test_split", "image_class_labels", "bounding_boxes", "parts/parts", "parts/part_locs")
        missing = [f"{name}.txt" for name in lists if not (self._base / f"{name}.txt").is_file()]
        missing += [] if (self._base / "images").is_dir() else ["images/"]
        if missing:
            raise UserError(f"{self.name}: missing {', '.join(missing)}; looked in {self._base}. {HELP}")
        if self._mask is not None:
            require_masks(self.name, self._mask, {mask: self._root / folder for mask, folder in MASKS.items()})

    def _read_lists(self) -> None:
        paths = self._by_image("images", "image path", str)
        is_train = self._by_image("train_test_split", "image is_train", flag)
        labels = self._by_image("image_class_labels", "image class", positive)
        boxes = self._by_image("bounding_boxes", "image x y width height", coordinate, coordinate, extent, extent)
        lists = {"train_test_split": is_train, "image_class_labels": labels, "bounding_boxes": boxes}
        for name, table in lists.items():
            for short, other, lost in (
                (name, "images", paths.keys() - table.keys()),
                ("images", name, table.keys() - paths.keys()),
            ):
                if lost:
                    raise UserError(
                        f"{self._base / short}.txt has no line for image {min(lost)} of {other}.txt. {HELP}"
                    )

        self._ids = [image for image in paths if is_train[image] == (self.split == "train")]
        self._paths = paths
        self._labels, self.num_classes = labels, max(labels.values(), default=0)
        # The files count pixels from one.
        self._boxes = {i: np.array([x - 1, y - 1, x + w - 2, y + h - 2]) for i, (x, y, w, h) in boxes.items()}
        self._keypoints = self._read_keypoints()
        pictures = {image: self._base / "images" / path for image, path in paths.items()}
        corners = {image: box.reshape(2, 2) for image, box in self._boxes.items()}
        visible = {image: places[places[:, 2] > 0, :2] for image, places in self._keypoints.items()}
        self._places = {"boxes": Places(corners, pictures), "keypoints": Places(visible, pictures)}

    def _read_keypoints(self) -> dict[int, np.ndarray]:
        places = {image: np.zeros((len(self.keypoint_names), 3)) for image in self._paths}
        found = {image: set() for image in self._paths}
        path = self._base / "parts/part_locs.txt"
        types = (int, int, coordinate, coordinate, flag)
        for image, part, x, y, visible in self._rows("parts/part_locs", "image part x y visible", *types):
            if image not in places:
                continue
            if not 1 <= part <= len(self.keypoint_names):
                raise UserError(f"{path}: image {image} has a part {part}, unknown to parts.txt. {HELP}")
            if part in found[image]:
                raise UserError(f"{path} has two lines for part {part} of image {image}. {HELP}")
            found[image].add(part)
            if visible:
                places[image][part - 1] = x - 1, y - 1, 1
        lost = next((image for image in self._ids if len(found[image]) != len(self.keypoint_names)), None)
        if lost is not None:
            raise UserError(
                f"{path} has {len(found[lost])} lines for image {lost}, "
                f"but parts.txt has {len(self.keypoint_names)} keypoints. {HELP}"
            )
        return places

    def _by_image(self, name: str, expected: str, *types: Callable) -> dict[int, Any]:
        """What a list has for each image: one value, or a list of several."""
        rows = self._rows(name, expected, int, *types)
        image, count = Counter(row[0] for row in rows).most_common(1)[0] if rows else (None, 0)
        if count > 1:
            raise UserError(f"{self._base / name}.txt has {count} lines for image {image}. {HELP}")
        return {image: values[0] if len(types) == 1 else values for image, *values in rows}

    def _rows(self, name: str, expected: str, *types: Callable) -> list[tuple]:
        return read_rows(self._base / f"{name}.txt", expected, *types)

    def _use_cleaned_list(self, path: Path) -> None:
        with foreign(path, "cleaned list of CUB", "fetch it again, or move it away to use all training pictures"):
            images = np.atleast_1d(loadmat(path, struct_as_record=False, squeeze_me=True)["images"])
            cleaned = {image.rel_path: _read_cleaned(image) for image in images}
            if not cleaned:
                raise ValueError("it lists no picture")
        ids = {self._paths[image]: image for image in self._ids}
        unknown = next((name for name in cleaned if name not in ids), None)
        if unknown is not None:
            raise UserError(f"{path} lists {unknown}, which is no training image of images.txt. {HELP}")
        self._ids = [ids[name] for name in cleaned]
        self._boxes |= {ids[name]: image.box for name, image in cleaned.items()}
        self._cleaned = cleaned
        self.notes.append(f"{self.name}: {len(self):,} pictures, those of the cleaned list {path}.")

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture with its annotation.

        Raises:
            UserError: a file is missing or broken, a mask has another size than its picture, or the box or a keypoint
                is nowhere near it.
        """
        image_id, name = self._ids[index], self.sample_name(index)
        path = self._base / "images" / name
        image, turn = read_turned_picture(path)
        part_map, mask = self._part_map(name, path, image), self._mask_of(index, path, image)
        maps = [label_map for label_map in (mask, part_map) if label_map is not None]
        seen, keypoints = (path, turn, image.shape, maps), self._keypoints[image_id].copy()
        visible = keypoints[:, 2] > 0
        keypoints[visible, :2], of_keypoints = self._places["keypoints"].shown(keypoints[visible, :2], *seen)
        corners, of_box = self._places["boxes"].shown(self._boxes[image_id].reshape(2, 2), *seen)
        sample = Sample(
            name=name,
            path=path,
            image=image,
            foreground=np.ones(image.shape[:2], np.uint8) if mask is None else mask.labels,
            label=self._labels[image_id],
            box=np.sort(corners, axis=0).ravel(),
            keypoints=keypoints,
            part_map=None if part_map is None else part_map.labels,
            void=united(*(label_map.void for label_map in maps)),
            remarks=remarks_of(path, turn, maps) + of_keypoints + of_box,
        )
        check_box(sample, self._base / "bounding_boxes.txt")
        check_keypoints(sample, self.keypoint_names, self._base / "parts/part_locs.txt")
        return sample

    def _part_map(self, name: str, path: Path, image: np.ndarray) -> LabelMap | None:
        if self.part_names is None:
            return None
        map_path = (self._root / "part_maps" / name).with_suffix(".png")
        num_parts = len(self.part_names)
        return read_part_map(
            map_path,
            path,
            image,
            num_parts=num_parts,
            ignore_label=self._ignore_label,
            refusal=lambda _, largest: f"has a label {largest}, but part_maps/parts.txt has {num_parts} parts.",
        )

    def _mask_of(self, index: int, path: Path, image: np.ndarray) -> LabelMap | None:
        if self._mask is None:
            return None
        cleaned = self._cleaned.get(self.sample_name(index)) if self._mask == "gt" else None
        if cleaned is not None:
            turn = turn_of_map(f"the mask in {self._cleaned_list}", cleaned.shape, path, image)
            count = cleaned.shape[0] * cleaned.shape[1]
            found = np.unpackbits(cleaned.mask, count=count).reshape(cleaned.shape)
            return as_shown(self._cleaned_list, found, None, turn)
        mask_path = self.mask_path(index, self._mask)
        if self._mask != "gt":
            return read_mask(mask_path, path, image, **self._mask_rules)
        values, own_turn = stored_labels(mask_path)
        turn = turn_of_map(str(mask_path), values.shape, path, image, own_turn)
        if self._mask_rules["forced"] is not None:
            return as_shown(mask_path, *forced_object(values, mask_path, **self._mask_rules), turn, own_turn)
        if values.max() != 0 and not _ONE_ANNOTATOR <= values.max() <= _ALL_ANNOTATORS:
            raise UnreadableFile(
                f"{mask_path} has values up to {values.max()}, but 255 is the object in a mask of CUB: save it with 0 "
                f"and 255. {FORCE} {HELP}"
            )
        found = values == _ALL_ANNOTATORS  # lower values: annotators disagree
        return as_shown(mask_path, found, None, turn, own_turn)

    def files(self, index: int) -> list[Path]:
        """Every file that sample ``index`` is read from."""
        name = self.sample_name(index)
        files = [self._base / "images" / name]
        if self.part_names is not None:
            files.append((self._root / "part_maps" / name).with_suffix(".png"))
        if self._mask is not None and not (self._mask == "gt" and name in self._cleaned):
            files.append(self.mask_path(index, self._mask))
        return files

    def sample_name(self, index: int) -> str:
        """The name of sample ``index``, without reading it."""
        return self._paths[self._ids[index]]

    def mask_path(self, index: int, mask: Mask) -> Path:
        """Where the mask of sample ``index`` is read from, and a predicted one is to be written to."""
        return (self._root / MASKS[mask] / self.sample_name(index)).with_suffix(".png")


def _read_cleaned(image: Any) -> _CleanedImage:
    # As in the text files, pixels are counted from one.
    box = np.array([image.bbox.x1, image.bbox.y1, image.bbox.x2, image.bbox.y2], float) - 1
    mask = np.asarray(image.mask)
    if not np.isfinite(box).all() or (box[:2] > box[2:]).any():
        raise ValueError(f"the box of {image.rel_path} is {box + 1}")
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"the mask of {image.rel_path} has the shape {mask.shape}")
    return _CleanedImage(box, np.packbits(mask > 0), mask.shape)
