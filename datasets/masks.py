"""What of a mask is object, and what of a label map is no part: decided for each file by what is in it.

A mask is read in this order:

1. Where an alpha channel or transparent colour leaves some pixels out and not others, the object is what is not
   transparent; unless what is left is flat black and white, but for soft edges, and so a mask itself. Alpha that is the
   same everywhere says nothing, but that there is no object where nothing is to be seen at all.
2. A palette of greys stands for its greys, however they are numbered. Colours, of a palette or of up to 32 in a
   picture, are of labels: what is black is background; of a palette without black, index 0.
3. With two values the larger is the object, as long as they are far enough apart. Of a trimap, black and white with a
   grey band between them, the band is void.
4. Up to 32 values from 0 are labels, of parts or objects, if they are dark, or in areas (beside white, if they are far
   apart, or such an area is grey and not thin): whatever is not 0 is object.
5. Other values are shades, as of saliency networks, soft edges and JPEG: object is what has half of white or more.
   Where nothing has, nothing says what the object is, and the file is refused.

Beside labels, those of 3 too, void pixels are known: in a palette of colours the index that is
``dataset.ignore_label``; else that value below 64 others, or of 255 the colour that it has in PASCAL VOC, or white,
where it is a thin border that keeps labels from background. In 16 bits 65535 stands for 255.

``dataset.mask_threshold`` takes the place of 3 to 5, and so does ``dataset.mask_values``, but of alpha: it says what
is object in a mask or palette below it. Of a palette of colours they mean the indices; a coloured picture has no such
numbers, and is refused. Beside ``mask_values``, which name labels, ``dataset.ignore_label`` is void; white is so beside
labels below 64 and another background alone, since it may as well be what is around a black object.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from datasets.files import HELP, UnreadableFile, decoded, no_labels, stored_labels, to_labels, turn_of_map
from datasets.sample import VOID, Remark
from datasets.turns import UPRIGHT, swaps_sides, turned
from utils.errors import UserError

_MOST_LABELS = 32
_BELOW_VOID = 64  # labels that void stands beside; 0, 128 and 255 are black, grey and white
_FAR_APART, _LABELS_APART = 64, 8  # of 256 shades: two values of a mask; labels that are drawn in greys
_THICK = 9  # pixels: a border that is drawn around objects is thinner nearly everywhere
_LOSSY = {"AVIF", "HEIF", "JPEG"}  # formats that leave noise around an object
_SHADES_OF_BLACK = 16  # the part of all shades that is nearly black, and of those that are nearly white
_COLOUR_NOISE = 16  # of a grey picture's channels in them
_VOID_16_BITS = 65535  # what -1 and white become, as 255 in bytes
_VOC_VOID, _WHITE = (224, 224, 192), (255, 255, 255)  # as palettes show the label 255

# Kinds of remarks.
TRANSPARENT = "{count} masks are transparent, wholly or in part: what is not transparent is the object."
BLACK_INDEX = "{count} masks have a palette with black at another index than 0: what is not black is the object."
GREYS = "{count} masks have a palette with white at index 0, or black at another: the object is what is white."
NO_BLACK = "{count} masks have a palette without black: what is not index 0 is the object."
COLOURS = "{count} masks are coloured, black among them: what is not black is the object."
NO_ZERO = "{count} masks have two values without 0: the larger is the object."
TRIMAP = "{count} masks are trimaps: the object is what is white, and the grey band around it is void."
LABELS = (
    "{count} masks are of labels: whatever is not 0 is the object. dataset.mask_values chooses among them; were they "
    "shades, dataset.mask_threshold would say from which one on."
)
SHADES = (
    "{count} masks are of shades: the object is what has half of white (128 of 255) or more. "
    "dataset.mask_threshold=VALUE sets another; were they labels, 1 would be right."
)
WHITE_AREAS = (
    "{count} masks have dark areas beside white: the object is what is white. Where that is void and the dark ones are "
    "labels, name those of the object: dataset.mask_values=[1], or more."
)
AS_STORED = "{count} masks or label maps are of pixels as stored: they are turned as their pictures' EXIF says."
PLACES_AS_STORED = (
    "{count} pictures have keypoints or boxes of pixels as stored: they are turned as the pictures' EXIF says."
)
UNTOLD = (
    "{count} pictures are turned by EXIF within the same size, so that nothing says whether their masks and label maps "
    "are too: they are taken as viewers show the pictures, and so are keypoints and boxes where no others of their "
    "file tell."
)
UNTOLD_PLACES = (
    "{count} pictures are turned by EXIF, and nothing says whether their keypoints and boxes are too: they are taken "
    "as viewers show the pictures."
)
VOID_PIXELS = "{pixels} pixels in {count} pictures are void, and left out of every figure."
VOID_PREDICTED = "{pixels} pixels in the given label maps of {count} pictures are void, and left out of every figure."

INVERTED = (
    "{count} masks have the object all around the picture and none in its middle: if it is what is black, "
    "dataset.mask_values=[0] says so."
)

FORCE = (
    "dataset.mask_values=[1], for example, says that 1 is the object, and dataset.mask_threshold=VALUE that it is "
    "what has this value or more."
)

Forced = int | tuple[int, ...] | None  # ``dataset.mask_threshold``, ``dataset.mask_values``, or neither


@dataclass
class LabelMap:
    """A mask or label map as it lies on its picture.

    Attributes:
        labels: (H, W) uint8, 0 is background; 1 is the object of a mask, 1.. the parts of a part map.
        void: (H, W) uint8, 1 where nothing is known, and the label is 0; or None.
        remarks: what a log should say of the file, but for void pixels.
    """

    labels: np.ndarray
    void: np.ndarray | None = None
    remarks: tuple[Remark, ...] = ()

    @property
    def was_stored(self) -> bool:
        """It was made by a program that knows nothing of the picture's note."""
        return any(remark.kind == AS_STORED for remark in self.remarks)


def read_mask(
    path: Path, picture_path: Path, image: np.ndarray, *, forced: Forced, ignore_label: int | None
) -> LabelMap:
    """A mask of any common type.

    Args:
        picture_path, image: of its picture, (H, W, 3).
        forced: the object is what has this value or more, or one of these; None: see above.
        ignore_label: of void pixels; None: there are none.

    Raises:
        UserError: as of ``files.read_label_map``; or nothing in the file says what the object is.
    """
    planes, own_turn = decoded(path, _planes)
    found, void, kind = _object_of(planes, path, forced, ignore_label)
    turn = turn_of_map(str(path), found.shape, picture_path, image, own_turn)
    remarks = [] if kind is None else [Remark(kind, path)]
    if forced is None and kind not in (TRANSPARENT, COLOURS) and _is_around(found):
        remarks.append(Remark(INVERTED, path))
    return as_shown(path, found, void, turn, own_turn, remarks)


def read_part_map(
    path: Path,
    picture_path: Path,
    image: np.ndarray,
    *,
    num_parts: int,
    ignore_label: int | None,
    refusal: Callable[[int, int], str],
) -> LabelMap:
    """A label map of any common type.

    Args:
        picture_path, image: of its picture, (H, W, 3).
        num_parts: the largest label.
        ignore_label: of void pixels; None: there are none.
        refusal: what is said, after the file's name, of a smallest and a largest label that are not 0 to that.

    Raises:
        UserError: as of ``files.read_label_map``; or the map has a larger label.
    """
    labels, own_turn = stored_labels(path)
    turn = turn_of_map(str(path), labels.shape, picture_path, image, own_turn)
    void = void_of(labels, ignore_label)
    if void is not None:
        labels = np.where(void, 0, labels)
    if not 0 <= labels.min() <= labels.max() <= num_parts:
        raise UserError(f"{path} {refusal(int(labels.min()), int(labels.max()))} {HELP}")
    return as_shown(path, labels, void, turn, own_turn)


def as_shown(
    path: Path,
    labels: np.ndarray,
    void: np.ndarray | None,
    turn: int,
    own_turn: int = UPRIGHT,
    remarks: Sequence[Remark] = (),
) -> LabelMap:
    """Stored labels and void (H, W) as they lie on their picture.

    Args:
        turn: of ``files.turn_of_map``.
        own_turn: that viewers give the file.
    """
    if turn not in (own_turn, UPRIGHT):
        remarks = (*remarks, Remark(AS_STORED, path))
    void = None if void is None else turned(void.astype(np.uint8), turn)
    return LabelMap(turned(labels.astype(np.uint8), turn), void, tuple(remarks))


def remarks_of(picture_path: Path, turn: int, maps: Sequence[LabelMap]) -> tuple[Remark, ...]:
    """What a log should say of a picture's masks and label maps.

    Args:
        turn: that the picture was given.
        maps: on the picture.
    """
    found = [remark for label_map in maps for remark in label_map.remarks]
    if maps and turn != UPRIGHT:
        height, width = maps[0].labels.shape
        if height == width or not swaps_sides(turn):
            found.append(Remark(UNTOLD, picture_path))
    if (void := united(*(label_map.void for label_map in maps))) is not None:
        found.append(Remark(VOID_PIXELS, picture_path, int(void.sum())))
    return tuple(found)


def void_of(labels: np.ndarray | None, ignore_label: int | None) -> np.ndarray | None:
    """Where labels (H, W) are void, bool; None where they are nowhere, or there are no labels."""
    if labels is None or ignore_label is None:
        return None
    void = labels == ignore_label
    if ignore_label == VOID and labels.dtype != np.uint8:
        void |= labels == _VOID_16_BITS
    return void if void.any() else None


def forced_object(
    values: np.ndarray, path: Path, forced: int | tuple[int, ...], ignore_label: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Where a mask's values (H, W) are those of the object by ``dataset.mask_threshold`` or ``mask_values``, and void.

    Returns:
        (H, W) bool, both; the second None where nothing is void.

    Raises:
        UserError: no value of so many bits is.
    """
    is_threshold = isinstance(forced, int)
    if (forced if is_threshold else min(forced)) > (white := _white(values)):
        raise UserError(
            f"{_given(forced)} is above {white}, the largest value that {path} can have: its mask would be empty. "
            f"{HELP}"
        )
    if is_threshold:
        return values >= forced, None
    found, void = np.isin(values, forced), void_of(values, ignore_label)
    void = None if void is None else void & ~found
    if void is not None and ignore_label == VOID:
        others = values[~void]
        is_beside_labels = others.max(initial=0) < _BELOW_VOID and not (found | void).all()
        void = void if is_beside_labels else None
    return found, void


def _given(forced: int | tuple[int, ...]) -> str:
    return f"dataset.mask_threshold={forced}" if isinstance(forced, int) else f"dataset.mask_values={[*forced]}"


def _is_around(found: np.ndarray) -> bool:
    """Whether an object (H, W) fills most of each of the picture's edges, and little of its middle."""
    height, width = found.shape
    middle = found[height // 3 : height - height // 3, width // 3 : width - width // 3]
    edges = (found[0], found[-1], found[:, 0], found[:, -1])
    return min(edge.mean() for edge in edges) >= 0.75 and middle.size > 0 and middle.mean() <= 0.25


def _white(values: np.ndarray) -> int:
    return 255 if values.dtype == np.uint8 else 65535


def united(*voids: np.ndarray | None) -> np.ndarray | None:
    """Where one of several planes (H, W) is void; None where none is anywhere."""
    present = [void for void in voids if void is not None]
    return np.maximum.reduce(present) if present else None


def mask_box(foreground: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) float, the tight box of a mask, inclusive; the whole picture where the mask is empty."""
    if not foreground.any():
        height, width = foreground.shape
        return np.array([0, 0, width - 1, height - 1], float)
    columns, rows = (np.flatnonzero(foreground.any(axis)) for axis in (0, 1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], float)


# --- what is in a file


@dataclass
class _Planes:
    """What is in a mask's file.

    Attributes:
        values: (H, W) whole numbers; of a palette the indices, of a coloured picture its first channel.
        colours: (N, 3) uint8, the palette; or None.
        coloured: (H, W, 3) uint8, where the channels differ; or None.
        alpha: (H, W), 0 is transparent; or None.
        lossy: its format leaves noise.
    """

    values: np.ndarray
    colours: np.ndarray | None
    coloured: np.ndarray | None
    alpha: np.ndarray | None
    lossy: bool


def _planes(picture: Image.Image) -> _Planes:
    values = np.asarray(to_labels(picture))
    alpha, coloured = None, None
    if values.ndim == 3:
        has_alpha = values.shape[2] in (2, 4) and picture.mode not in ("RGBX",)
        alpha = values[..., -1] if has_alpha else None
        channels = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
        noise = _COLOUR_NOISE if picture.format in {*_LOSSY, "WEBP"} else 0
        if picture.mode != "PA" and (np.ptp(channels, axis=-1) > noise).any():
            coloured = channels
        values = values[..., 0]
    if alpha is None and "transparency" in picture.info and picture.mode in ("P", "L", "RGB", "1"):
        alpha = np.asarray(picture.convert("RGBA"))[..., 3]
    colours = None
    if picture.mode in ("P", "PA"):
        colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return _Planes(values, colours, coloured, alpha, picture.format in _LOSSY)


_Found = tuple[np.ndarray, np.ndarray | None, str | None]  # object and void, (H, W) bool; a remark's kind


def _object_of(planes: _Planes, path: Path, forced: Forced, ignore_label: int | None) -> _Found:
    if planes.alpha is not None:
        if planes.alpha.min() != planes.alpha.max():
            return _of_alpha(planes, path, forced, ignore_label)
        is_flat = planes.coloured is None and planes.values.min() == planes.values.max()
        if is_flat and planes.values.any() and not planes.alpha.any():
            return np.zeros(planes.values.shape, bool), None, TRANSPARENT
    if planes.coloured is not None:
        return _of_colours(planes.coloured, path, forced, ignore_label)
    if planes.colours is not None:
        return _of_palette(planes, path, forced, ignore_label)
    return _of_values(planes.values, planes.lossy, path, forced, ignore_label)


def _of_alpha(planes: _Planes, path: Path, forced: Forced, ignore_label: int | None) -> _Found:
    # Values that are the object are those of a mask; of alpha only a threshold can be.
    opaque, _, _ = _of_values(planes.alpha, False, path, forced if isinstance(forced, int) else None, None)
    void, is_grey = None, planes.coloured is None and planes.colours is None
    if planes.coloured is not None:
        if _are_few(planes.coloured):
            if isinstance(forced, tuple):
                raise _no_values(path, forced)
            void = _coloured_void(planes.coloured, opaque, ignore_label)
    elif len(_used(planes.values[opaque])) <= _MOST_LABELS:
        if planes.colours is not None and forced is not None:
            found, void, _ = _of_palette(planes, path, forced, ignore_label)
            return opaque & found, None if void is None else opaque & void, TRANSPARENT
        void = _void_border(np.where(opaque, planes.values, 0), ignore_label)
    if void is not None and forced is None:
        return (opaque & (planes.values > 0) if is_grey else opaque) & ~void, void, TRANSPARENT
    if not (is_grey and _is_mask(planes.values, opaque)):
        return opaque, None, TRANSPARENT
    found, void, _ = _of_values(planes.values * opaque, planes.lossy, path, forced, ignore_label)
    return opaque & found, void, TRANSPARENT


def _is_mask(values: np.ndarray, opaque: np.ndarray) -> bool:
    """Whether the grey values (H, W) of what is opaque are 0 and another one, or flat black and white with soft edges.

    Grey photographs have black and white too, but grey areas beside them, or no flat ones.
    """
    found = _used(values[opaque])
    if len(found) == 2 and found[0] == 0:
        return True
    few = _white(values) // _SHADES_OF_BLACK
    black, white = opaque & (values < few), opaque & (values > _white(values) - few)
    plain, count = black | white, opaque.sum()
    if min(black.sum(), white.sum()) * 100 < count or plain.sum() * 2 < count or not _are_areas(plain, values):
        return False
    around = np.ones((2 * _THICK + 1, 2 * _THICK + 1), np.uint8)
    edge = cv2.dilate(black.astype(np.uint8), around) & cv2.dilate(white.astype(np.uint8), around)
    return (plain | (opaque & (edge > 0))).sum() >= 0.95 * count


def _are_few(coloured: np.ndarray) -> bool:
    return len(np.unique(coloured.reshape(-1, coloured.shape[-1]), axis=0)) <= _MOST_LABELS


def _of_colours(coloured: np.ndarray, path: Path, forced: Forced, ignore_label: int | None) -> _Found:
    if forced is not None:
        raise _no_values(path, forced)
    found = coloured.any(-1)
    if found.all() or not _are_few(coloured):
        raise no_labels(path, "is a coloured picture")
    void = _coloured_void(coloured, found, ignore_label)
    return found if void is None else found & ~void, void, COLOURS


def _no_values(path: Path, forced: int | tuple[int, ...]) -> UserError:
    return UserError(
        f"{path} is a coloured picture, in which {_given(forced)} means nothing: save it as greyscale or with a "
        f"palette, or leave the key out; what is not black is then the object. {HELP}"
    )


def _coloured_void(coloured: np.ndarray, found: np.ndarray, ignore_label: int | None) -> np.ndarray | None:
    """Where colours (H, W, 3) of what is found are those of void, which their palettes had at 255."""
    for colour in (_VOC_VOID, _WHITE) if ignore_label == VOID else ():
        void = found & (coloured == colour).all(-1)
        if _is_border(void, found & ~void):
            return void
    return None


def _of_palette(planes: _Planes, path: Path, forced: Forced, ignore_label: int | None) -> _Found:
    used = _used(planes.values)
    # Pillow leaves out the end of a palette; what is not there is black.
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(planes.colours)] = planes.colours
    colours = palette[used]
    shades = np.unique(colours[:, 0])
    are_told_apart = len(shades) == len(used) or (len(shades) > 1 and used[-1] < len(planes.colours))
    if (colours == colours[:, :1]).all() and are_told_apart:
        void = _void_border(planes.values, ignore_label) if forced is None else None
        if void is not None:
            return (palette[:, 0][planes.values] > 0) & ~void, void, LABELS
        found, void, kind = _of_values(palette[:, 0][planes.values], planes.lossy, path, forced, ignore_label)
        return found, void, kind or (GREYS if (found != (planes.values != 0)).any() else None)
    if forced is not None:
        return *forced_object(planes.values, path, forced, ignore_label), None
    black = used[~colours.any(1) & (used < len(planes.colours))] if palette[0].any() else used[:0]
    background = black if len(black) else [0]
    found = ~np.isin(planes.values, background)
    void = None
    # Index 0 and another one are a mask, whatever the other one is called.
    if ignore_label not in background and (len(used) > 2 or used[0] or tuple(colours[-1]) == _VOC_VOID):
        void = void_of(planes.values, ignore_label)
    kind = LABELS if len(used) > 2 else None
    if palette[0].any():
        kind = BLACK_INDEX if len(black) else NO_BLACK
    return found if void is None else found & ~void, void, kind


def _of_values(values: np.ndarray, lossy: bool, path: Path, forced: Forced, ignore_label: int | None) -> _Found:
    if forced is not None:
        return *forced_object(values, path, forced, ignore_label), None
    found = _used(values)
    smallest, largest, shade = int(found[0]), int(found[-1]), (_white(values) + 1) // 256
    half = 128 * shade
    if lossy and 0 < largest < half:
        raise UnreadableFile(
            f"{path} has values up to {largest}, but in a JPEG mask the object is what has {half} or more: save it as "
            f"PNG, or with 0 and 255. {FORCE} {HELP}"
        )
    if len(found) == 1:
        return values != 0, None, None
    few = len(found) <= _MOST_LABELS and not lossy
    if few and (void := _void_border(values, ignore_label)) is not None:
        return (values != 0) & ~void, void, LABELS
    if len(found) == 2:
        far_apart = largest - smallest >= _FAR_APART * shade and not lossy
        if smallest == 0 or largest < half or far_apart:
            return values == largest, None, NO_ZERO if smallest else None
    if few and smallest == 0:
        between = (values > 0) & (values < largest)
        spread = np.diff(found).min() >= _LABELS_APART * shade and _are_areas(between, values)
        is_band = spread and len(found) == 3 and largest == _white(values) and ignore_label is not None
        if is_band and _keeps_apart(between, values == largest, values == 0):
            return values == largest, between, TRIMAP
        if largest < half or spread:
            return values != 0, None, LABELS
        # Labels may be close, but noise of black and white is as well; what is grey in areas is none.
        few = _white(values) // _SHADES_OF_BLACK
        is_grey = largest <= _white(values) - few or _is_thick((values > few) & (values <= _white(values) - few))
        if is_grey and _are_areas(between, values):
            return values != 0, None, LABELS
        if void_of(values, ignore_label) is not None and found[-2] < _BELOW_VOID and _are_areas(between, values):
            return values >= half, None, WHITE_AREAS
    if largest < half:
        raise UnreadableFile(
            f"{path} has {len(found)} values from {smallest} to {largest}: they are neither two, nor labels from 0, "
            f"nor shades that reach half of white ({half}), so that nothing says what is object. {FORCE} {HELP}"
        )
    return values >= half, None, SHADES


def _void_border(labels: np.ndarray, ignore_label: int | None) -> np.ndarray | None:
    """Where labels (H, W) from 0 are void, bool; None where these are none, or it is no border of theirs."""
    void = void_of(labels, ignore_label)
    if void is None or labels.min() > 0 or labels[~void].max(initial=0) >= _BELOW_VOID:
        return None
    # In 16 bits 255 is not white, and so not the object of a mask.
    is_label = _white(labels) > VOID and labels.max() == VOID and (labels[~void] > 0).any()
    return void if is_label or _is_border(void, (labels > 0) & ~void) else None


def _used(values: np.ndarray) -> np.ndarray:
    """The values that there are, in order."""
    smallest, largest = values.min(), values.max()
    if np.count_nonzero((values == smallest) | (values == largest)) == values.size:  # nearly always, and much faster
        return np.unique([smallest, largest])
    return np.unique(values) if values.dtype != np.uint8 else np.flatnonzero(np.bincount(values.ravel()))


def _is_thick(area: np.ndarray) -> bool:
    """Whether it has a place that is no edge."""
    return bool(cv2.erode(area.astype(np.uint8), np.ones((_THICK, _THICK)), borderValue=0).any())


def _is_border(void: np.ndarray, labelled: np.ndarray) -> bool:
    """Whether void is thin and keeps labels from background; as the bright object of a soft mask it is neither."""
    inside = cv2.erode(void.astype(np.uint8), np.ones((_THICK, _THICK)), borderValue=0).sum()
    return inside * 2 < void.sum() and _keeps_apart(void, labelled, ~(void | labelled))


def _keeps_apart(between: np.ndarray, here: np.ndarray, there: np.ndarray) -> bool:
    """Whether most of what is here ends at what is between."""
    return _meetings(here, there) * 4 < _meetings(here, between)


def _meetings(here: np.ndarray, there: np.ndarray) -> int:
    """How many pairs of neighbouring pixels have one in each."""
    pairs = ((here[:-1], there[1:]), (there[:-1], here[1:]), (here[:, :-1], there[:, 1:]), (there[:, :-1], here[:, 1:]))
    return sum(int((one_side & other_side).sum()) for one_side, other_side in pairs)


def _are_areas(labelled: np.ndarray, values: np.ndarray) -> bool:
    """Whether most of these pixels have neighbours like them, as labels have, and soft edges and noise have not."""
    labelled, here, right, below = labelled[:-1, :-1], values[:-1, :-1], values[:-1, 1:], values[1:, :-1]
    return bool((labelled & (here == right) & (here == below)).sum() * 2 >= labelled.sum() > 0)
