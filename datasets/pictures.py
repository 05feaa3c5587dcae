"""Any pictures, of which nothing is known but perhaps their masks: what ``predict.py`` reads."""

import glob
from itertools import takewhile
from pathlib import Path
from typing import Literal

import numpy as np

from datasets import crops
from datasets.files import MissingFile, read_turned_picture
from datasets.masks import mask_box, read_mask, remarks_of
from datasets.names import as_pictures_are_called, pictures_in, stem_of, told_apart
from datasets.sample import Sample
from utils.errors import UserError


class Pictures:
    """The pictures in a folder and in the folders in it, or those that are named by a path or a pattern.

    Attributes:
        name: of the data set.
        notes: what a log should say about these files.
    """

    name = "pictures"

    def __init__(
        self,
        images: Path | str,
        masks: Path | str | None,
        *,
        box_padding: float | None,
        forced: int | tuple[int, ...] | None = None,
        ignore_label: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        """List the files; they are read one by one, when asked for.

        Args:
            images: the folder; a picture; or a pattern of pictures, such as ``"DIR/*/*.jpg"``, which are then seen from
                 ``DIR``.
            masks: a folder with a mask for every picture, under the picture's name, whatever the ending; see
                ``datasets.masks``. None: every mask is the whole picture.
            box_padding: of the crop around a mask, a share of its size. None: pictures are not cropped to their masks.
            forced, ignore_label: of masks; see ``datasets.masks``.
            on_error: "raise" asks for every mask at once; "skip" leaves that to the reading of its picture.

        Raises:
            UserError: there is no such folder, no picture in it, or a picture without a mask.
        """
        self._box_padding = box_padding if masks is not None else None
        self._rules = {"forced": forced, "ignore_label": ignore_label}
        self._root, self._pictures, self.notes = _chosen(str(images))
        self._stems = list(self._pictures)
        if not self._stems:
            raise UserError(" ".join([f"images={images} holds no picture.", *self.notes]))
        self._masks = None
        if masks is not None:
            found, notes = pictures_in(Path(masks), "Give another one: masks=DIR, or leave it out.")
            self._masks = as_pictures_are_called(found, self._pictures)
            self.notes += notes
            missing = [stem for stem in self._stems if stem not in self._masks]
            if missing and on_error == "skip":
                self._masks |= {stem: Path(masks, f"{stem}.png") for stem in missing}
            elif missing:
                raise MissingFile(
                    f"{len(missing)} of {len(self)} pictures have no mask in {masks}, for example "
                    f"{self._pictures[missing[0]]}: give masks the names of their pictures, whatever the ending, or "
                    "make them (docs/masks.md); dataset.on_error=skip predicts the others."
                )

    def __len__(self) -> int:
        return len(self._stems)

    def stem(self, index: int) -> str:
        """The picture's path in the folder, without its ending."""
        return self._stems[index]

    def sample_name(self, index: int) -> str:
        """The picture's path in the folder."""
        return self._pictures[self._stems[index]].relative_to(self._root).as_posix()

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and its mask.

        Raises:
            UserError: a file is missing or broken, or the mask has another size than the picture.
        """
        stem = self._stems[index]
        path = self._pictures[stem]
        image, turn = read_turned_picture(path)
        if self._masks is None:
            foreground, remarks = np.ones(image.shape[:2], np.uint8), ()
        else:
            mask = read_mask(self._masks[stem], path, image, **self._rules)
            foreground, remarks = mask.labels, remarks_of(path, turn, [mask])
        name = self.sample_name(index)
        return Sample(name, path, image, foreground, box=mask_box(foreground), remarks=remarks)

    def test_crop(self, sample: Sample, size: int) -> Sample:
        """A ``size`` x ``size`` square around the mask, as of the data sets with boxes, or of the whole picture."""
        if self._box_padding is None:
            return crops.pad_to_square(sample, size)
        return crops.crop(sample, crops.square_box(sample.box, self._box_padding), size)


def _chosen(images: str) -> tuple[Path, dict[str, Path], list[str]]:
    """The folder that names are seen from, the pictures by their names without the ending, and notes."""
    path = Path(images)
    if path.is_dir() or not (path.is_file() or glob.has_magic(images) or "{" in images):
        return path, *pictures_in(path, "Give another one: images=DIR.")
    if path.is_file():
        return path.parent, {stem_of(Path(path.name)): path}, []
    root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    found = [Path(name) for name in sorted(glob.glob(images, recursive=True))]
    files = {file.relative_to(root).as_posix(): file for file in found if file.is_file() or file.is_symlink()}
    dead = [name for name, file in files.items() if not file.exists()]
    pictures, notes = told_apart(root, [*files], dead, f"images={images}")
    if not pictures and not notes:
        raise UserError(
            f"images={images}: no picture is called so. Give a folder, a picture, or another pattern: it has * for any "
            "part of a name, ? for a sign and [ab] for one of these."
        )
    return root, pictures, notes
