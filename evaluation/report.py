"""What a reader sees of an evaluation: a table, a JSON file, a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.box import SIMPLE
from rich.table import Table

from datasets.base import Source
from evaluation.examples import Comparison, Example, Known
from evaluation.labellers.base import Labeller
from evaluation.matching import known_by_number
from evaluation.palette import GROUND, INK, font_of, shortened, tint, with_legend
from evaluation.run import Result
from utils.console import stdout
from utils.errors import UserError
from utils.files import written_whole

_CELL, _GAP, _CAPTION, _TEXT = 160, 6, 26, 15  # pixels


def print_table(results: Mapping[str, Mapping[str, float]]) -> None:
    """Print a row for each metric and a column for each labeller: so any number of metrics fits a terminal.

    Args:
        results: labeller -> metric -> percent; a metric that a labeller lacks is shown as a dash.
    """
    table = Table(box=SIMPLE)
    table.add_column("percent", no_wrap=True)
    for label in results:
        table.add_column(label, justify="right")
    for name in dict.fromkeys(name for metrics in results.values() for name in metrics):
        table.add_row(name, *(f"{metrics[name]:.1f}" if name in metrics else "-" for metrics in results.values()))
    stdout().print(table)


def write_metrics(path: Path, metrics: Mapping[str, float], provenance: Mapping[str, Any]) -> None:
    """Write ``metrics.json``: the metrics in percent by name, and ``produced_by``, what they were made from.

    Raises:
        UserError: it cannot be written.
    """
    text = json.dumps({**metrics, "produced_by": provenance}, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            part.write_text(text)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. The figures are in the table above."
        ) from error


def held_out_picture(
    result: Result, labeller: Labeller, noun: str, given: Sequence[str] = (), by_number: bool = False
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The examples of an evaluation, of which there is at least one: a part and what it matches have one colour.

    Args:
        labeller: whose evaluation it is.
        noun: of what it finds.
        given: (K,) names of the parts; or none.
        by_number: the colour is that of the part's number, however often it comes to match something else; else that of
            what is known.

    Returns:
        (H, W, 4) uint8, RGBA, with a legend; and the rows of ``picture_rows``.
    """
    comparison = true_comparison(result.comparisons)
    names = comparison.names if comparison else []
    examples, found, known = result.pictures, result.colours, np.arange(len(names) + 1)
    if by_number:
        if comparison:
            known = known_by_number(found, comparison.counts)
        found = np.arange(len(found))
        examples = [replace(example, recolouring=None, known=_recoloured(example.known, known)) for example in examples]
    picture = part_picture(examples, labeller.caption)
    rows = picture_rows(examples, picture, labeller.num_parts)
    if not labeller.gives_masks:
        picture = with_legend(picture, legend(found, known, names, noun, given), _TEXT)
    return picture, rows


def true_comparison(comparisons: Sequence[Comparison]) -> Comparison | None:
    """That with the true parts or classes, whose labels 1 .. T pictures show, if there is one."""
    return next((own for own in comparisons if own.known.startswith("true")), None)


def noun_of(labeller: Labeller, dataset: Source) -> str:
    """What is found, one of it."""
    if labeller.gives_masks:
        return "object"
    return "cluster" if dataset.pixel_classes else "part"


def legend(
    found: np.ndarray, known: np.ndarray, names: Sequence[str], noun: str, given: Sequence[str] = ()
) -> dict[int, str]:
    """What has each colour: ``part 2: given name = true name``; or ``part 2`` alone, or ``no part = true name``.

    Args:
        found: (1 + K,) int, the colour of each label that is found.
        known: (1 + T,) int, that of each that is known.
        names: (T,).
        noun: of what is found.
        given: (K,) names of that; or none.
    """
    texts = {}
    for colour in np.union1d(found[1:], known[1:]).tolist():
        parts, labels = (np.flatnonzero(of == colour).tolist() for of in (found, known))
        said = ", ".join(f"{part}: {given[part - 1]}" if given else str(part) for part in parts)
        own = f"{noun}{'s' * (len(parts) > 1)} {said}" if parts else f"no {noun}"
        texts[colour] = " = ".join([own, *(names[label - 1] for label in labels)])
    return texts


def _recoloured(known: Known | None, colour: np.ndarray) -> Known | None:
    """With labels in other colours than their numbers'."""
    if known is None or known.labels is None or len(colour) == 1:
        return known
    return replace(known, labels=colour[known.labels])


def part_picture(examples: Sequence[Example], caption: str) -> np.ndarray:
    """A figure of pictures above what was found in them and what is known of them: parts, keypoints or the foreground.

    Below are the files' names. There is no ground, so that it suits a dark page and a light one.

    Where true parts or classes are known, each part or cluster takes the colour of the one that it was matched with
    over the whole split; elsewhere colours follow the parts' numbers. Keypoints are white dots.

    Args:
        examples: at least one; the same is known of all, or nothing.
        caption: of what was found.

    Returns:
        (H, W, 4) uint8, RGBA; a column for each example.
    """
    recolouring = examples[0].recolouring
    rows = {
        "image": [_fitted(example.shown.image) for example in examples],
        caption: [_fitted(painted(example.shown.image, example.predicted, recolouring)) for example in examples],
    }
    if examples[0].known:
        rows[examples[0].known.caption] = [_drawn(example.known) for example in examples]
    step = _CELL + _GAP
    figure = Image.new("RGBA", (_CAPTION + step * len(examples), _GAP + step * len(rows) + _CAPTION), GROUND["RGBA"])
    for row, (title, cells) in enumerate(rows.items()):
        top = _GAP + row * step
        figure.paste(_upright(title), (0, top))
        for column, cell in enumerate(cells):
            corner = (_CAPTION + column * step + (_CELL - cell.width) // 2, top + (_CELL - cell.height) // 2)
            figure.paste(cell, corner)
    font, draw = font_of(_TEXT), ImageDraw.Draw(figure)
    for column, example in enumerate(examples):
        name = shortened(PurePosixPath(example.shown.name).name, font, _CELL, keeps_end=True)  # many begin alike
        middle = (_CAPTION + column * step + _CELL / 2, figure.height - _CAPTION / 2 - _GAP / 2)
        draw.text(middle, name, fill=INK, font=font, anchor="mm")
    return np.array(figure)


def _drawn(known: Known) -> Image.Image:
    if known.labels is not None:
        return _fitted(painted(known.image, known.labels))
    if known.points is None:
        return _fitted(known.image)
    cell = _fitted(_faded(known.image))
    draw, scale = ImageDraw.Draw(cell), _scale(known.image)
    for x, y, visible in known.points:
        if visible:
            draw.circle((x * scale, y * scale), _CELL / 45, fill="white", outline="black")  # no part's colour
    return cell


def _faded(image: np.ndarray) -> np.ndarray:
    shades = image.mean(axis=2, keepdims=True)
    return np.repeat(0.45 * shades + 0.55 * 255, 3, axis=2).astype(np.uint8)


def painted(image: np.ndarray, labels: np.ndarray, recolouring: np.ndarray | None = None) -> np.ndarray:
    """Labels in colour over the picture's grey, the background pale."""
    shades = image.mean(axis=2, keepdims=True)
    paint = tint(labels if recolouring is None else recolouring[labels])[..., :3]
    return np.where(labels[..., None] > 0, 0.7 * paint + 0.3 * shades, _faded(image)).astype(np.uint8)


def _fitted(picture: np.ndarray) -> Image.Image:
    """The picture at the size of a cell, its aspect kept."""
    height, width = picture.shape[:2]
    scale = _scale(picture)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST)


def _scale(picture: np.ndarray) -> float:
    return _CELL / max(picture.shape[:2])


def _upright(caption: str) -> Image.Image:
    strip = Image.new("RGBA", (_CELL, _CAPTION), GROUND["RGBA"])
    font = font_of(_TEXT)
    ImageDraw.Draw(strip).text((_CELL / 2, _CAPTION / 2), caption, fill=INK, font=font, anchor="mm")
    return strip.rotate(90, expand=True)


def picture_rows(examples: Sequence[Example], figure: np.ndarray, num_parts: int) -> list[dict[str, Any]]:
    """A table of the pictures in a figure, a row each.

    Args:
        figure: of these examples, as ``part_picture`` draws it.

    Returns:
        Name; the picture's column of the figure (h, w, 4) uint8; and each part's share of what was found, in percent.
    """
    step, rows = _CELL + _GAP, []
    for place, example in enumerate(examples):
        left = _CAPTION + step * place
        counts = np.bincount(example.predicted.ravel(), minlength=num_parts + 1)[1:]
        shares = (100 * counts / max(counts.sum(), 1)).tolist()
        row = {"name": example.shown.name, "picture": figure[:, left : left + step]}
        rows.append(row | {f"part {part}": share for part, share in enumerate(shares, start=1)})
    return rows
