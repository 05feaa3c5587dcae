"""Places that annotation has in pictures (keypoints, corners of boxes), of pictures that a note (EXIF) turns.

One program has marked all places of a file, in the pixels as they are stored or as viewers show them. Which, the file's
turned pictures tell whose places lie within them one way only; where none does, a picture's masks and label maps; and
without these they are taken as shown.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from datasets.files import shape_and_turn
from datasets.masks import PLACES_AS_STORED, UNTOLD_PLACES, LabelMap
from datasets.sample import Remark
from datasets.turns import UPRIGHT, swaps_sides, turned_places
from utils.errors import UserError

_CLEAR = 20  # votes


class Places:
    """The places that are in one file.

    Args:
        marked: of pictures of all splits the places (N, 2), x and y from 0.
        pictures: their files.
    """

    def __init__(self, marked: Mapping[Hashable, np.ndarray], pictures: Mapping[Hashable, Path]) -> None:
        self._marked, self._pictures = marked, pictures
        self._votes: int | None = None

    def shown(
        self, places: np.ndarray, path: Path, turn: int, shape: tuple[int, ...], maps: Sequence[LabelMap]
    ) -> tuple[np.ndarray, tuple[Remark, ...]]:
        """Places (N, 2) of a picture where it shows them, and what a log should say of it.

        Args:
            path, turn: of the picture.
            shape: its height and width as it is shown.
            maps: its masks and label maps.
        """
        if turn == UPRIGHT or not len(places):
            return places, ()
        votes = self._counted()
        if votes > 0 or (votes == 0 and any(label_map.was_stored for label_map in maps)):
            return turned_places(places, turn, shape), (Remark(PLACES_AS_STORED, path),)
        return places, () if votes or maps else (Remark(UNTOLD_PLACES, path),)

    def _counted(self) -> int:
        """How many more pictures have places that fit the stored pixels alone than those shown alone.

        Read of the pictures' heads once a turned one is met, and only until it is clear.
        """
        if self._votes is None:
            votes = 0
            for name, places in self._marked.items():
                if name in self._pictures and len(places):
                    with suppress(UserError):  # the reading of the picture tells it
                        votes += _vote(places, *shape_and_turn(self._pictures[name]))
                if abs(votes) == _CLEAR:
                    break
            self._votes = votes
        return self._votes


def _vote(places: np.ndarray, shape: tuple[int, int], turn: int) -> int:
    """1 where places (N, 2) lie within the stored pixels alone, -1 within those shown alone, else 0.

    Args:
        shape: height and width of the picture as it is shown.
    """
    if not swaps_sides(turn):
        return 0
    extent = np.array(shape[::-1])
    fit_shown, fit_stored = (bool(((places >= -0.5) & (places <= size - 0.5)).all()) for size in (extent, extent[::-1]))
    return fit_stored - fit_shown
