"""A figure of chosen pictures with their parts: ``python -m evaluation.figure checkpoint=RUN pictures=[a,b,c]``.

    python -m evaluation.figure checkpoint=runs/my_run
    python -m evaluation.figure checkpoint=runs/my_run pictures=[a.jpg,b.jpg] columns=2
    python -m evaluation.figure checkpoint=runs/my_run part_names=[head,wings,tail,feet] formats=[pdf]

Pictures have their own resolution; a legend names the parts. Keys are in conf/evaluation_figure.yaml; the page is
docs/report.md.
"""

import conf.start  # noqa: F401

# isort: split
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from omegaconf import MISSING, DictConfig

from conf import app
from conf.fields import choice, number, probability
from conf.schema import EvaluateConfig
from datasets.sample import Sample
from evaluation import run
from evaluation.compare import (
    CUT,
    Method,
    chosen_pictures,
    fit,
    kept_figures,
    maps_of,
    methods_of,
    shared_pictures,
    with_parts_counted,
)
from evaluation.labellers.label_maps import LabelMaps
from evaluation.options import EvaluationOptions
from evaluation.pages import comparison
from evaluation.pages.comparison import footnote, painted
from evaluation.pages.points import beside
from evaluation.palette import tint
from models.methods import method_class
from utils.console import say
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import require_writable

GAP, LINE = 0.04, 0.16  # inches between pictures, and of a line of text
KEY, BESIDE, POINTS = 7, 0.14, 72  # points of a legend's text, inches before it, and points of an inch
# Without hinting a text is as wide in every file as where it was measured, whatever their dots per inch.
STYLE = comparison.STYLE | {"svg.fonttype": "none", "text.hinting": "none"}
NUMBER = 4.5  # points: size of a keypoint's number
# A keypoint has no part's colour.
DOT = {"marker": "o", "color": "white", "markersize": 3, "markeredgecolor": "#111111", "markeredgewidth": 0.5}


@dataclass
class FigureConfig(EvaluateConfig):
    pictures: list[str] = MISSING
    count: int = number(low=1)
    columns: int = number(low=1)
    cell: float = number(above=0, high=20)
    opacity: float = probability()
    legend: bool = MISSING
    file_names: bool = MISSING
    keypoints: bool = MISSING
    formats: list[str] = choice("pdf", "png", "svg")
    dpi: int = number(low=10, high=2400)


def figure(config: DictConfig) -> None:
    """One pass over the chosen pictures, and a file of each format."""
    set_determinism(config.deterministic)
    fabric = build_fabric(config.device, config.precision)
    output = Path(config.output_dir or f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}_figure")
    files = [output / f"figure.{ending}" for ending in config.formats]
    if present := [str(file) for file in files if file.exists()]:
        raise UserError(f"There already: {', '.join(present)}. Give another output_dir.")
    require_writable(output)
    subject = config.checkpoint or config.predictions or next(iter(config.baselines))
    given = config.copy()
    given.checkpoint = given.predictions = None
    (method,) = methods_of([subject], given, fabric)
    wanted = chosen_pictures(config, shared_pictures([method]))
    colour = None
    try:
        method = with_parts_counted(method)
        colour = colours_of_parts(method, fabric.device)  # and what needs it is fitted
    except UserError as error:
        if not isinstance(method.labeller, LabelMaps):
            raise
        say(f"Parts have the colours of their numbers. {error}")
    maps = list(maps_of(method, wanted, fabric.device))
    found, note = [(sample, labels) for sample, labels, _ in maps], ""
    if any(cut for _, _, cut in maps):
        note = f"{method.title} {CUT}."
        say(note)
    if colour is None:
        said = config.predictions_num_parts or len(config.part_names)
        colour = np.arange(1 + max(1, said, *(int(labels.max()) for _, labels in found)))
    num_parts = len(colour) - 1
    if config.part_names and len(config.part_names) != num_parts:
        raise UserError(f"part_names are {len(config.part_names)}, parts {num_parts}: name each, or none.")
    points = method.sets.test.keypoint_names if config.keypoints else []
    if config.keypoints and not points:
        raise UserError(f"keypoints=true: {method.sets.test.name} has none. Leave it out.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            drawn = draw(config, found, colour, points, note)
            for file in files:
                drawn.savefig(file, dpi=config.dpi)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename or output}: {error.strerror or error}.") from error
    print("Figure: " + ", ".join(map(str, files)))


def colours_of_parts(method: Method, device: torch.device) -> np.ndarray:
    """(1 + K,) int, for each label the one whose colour it has: as in the report, by an evaluation's own counts.

    Of an evaluation that the run keeps of the same checkpoint, else of one now, on all held-out pictures.

    Raises:
        UserError: see ``evaluation.run.evaluate``.
    """
    (kept,) = kept_figures([method])
    test, options = method.sets.test, replace(EvaluationOptions.of(method.config), num_pictures=0, truth_free=False)
    if kept and kept.colours:
        colour = np.array(kept.colours)
    elif test.part_names or test.pixel_classes:
        (first, *_) = run.chosen_protocols(method.labeller, test, method_class(method.config).protocols, options)
        return run.evaluate(method.labeller, method.sets, [first.name], options, device).colours
    else:
        colour = np.arange(method.labeller.largest_label + 1)
    fit(method, device)
    return colour


def draw(
    config: DictConfig,
    found: Sequence[tuple[Sample, np.ndarray]],
    colour: np.ndarray,
    keypoints: Sequence[str],
    note: str = "",
) -> Figure:
    """The figure: rows of ``config.columns`` pictures, each row as high as its highest, the legend and a note below.

    Args:
        found: pictures with their label maps (H, W).
        colour: (1 + K,) int, for each label the one whose colour it has; the legend has all K.
        keypoints: names; of none no keypoints are drawn.
    """
    columns, num_parts = min(config.columns, len(found)), len(colour) - 1
    rows = [found[start : start + columns] for start in range(0, len(found), columns)]
    text = LINE * config.file_names
    heights = [max(sample.image.shape[0] / sample.image.shape[1] for sample, _ in row) * config.cell for row in rows]
    width = columns * (config.cell + GAP) - GAP
    parts = [f"{part} {name}".strip() for part, name in enumerate(config.part_names or [""] * num_parts, start=1)]
    keys = [(parts, 1.0 if config.part_names else 0.65), ([f"{n} {name}" for n, name in enumerate(keypoints, 1)], 1.0)]
    # Of each kind lines of columns that are as wide as its longest text.
    keys = [(texts, max(int(width / max(least, _width(texts))), 1)) for texts, least in keys if texts and config.legend]
    legend = LINE * sum(-(-len(texts) // per_line) + 0.5 for texts, per_line in keys)
    note = footnote([note], width)
    below = LINE * len(note.splitlines())
    height = sum(heights) + len(rows) * (GAP + text) - GAP + legend + below
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)  # which knows how wide a text is
    top = height
    for row, row_height in zip(rows, heights, strict=True):
        for column, (sample, labels) in enumerate(row):
            own = sample.image.shape[0] / sample.image.shape[1] * config.cell
            place = (column * (config.cell + GAP), top - row_height, config.cell, own)
            axes = made.add_axes([place[0] / width, place[1] / height, place[2] / width, place[3] / height])
            axes.imshow(painted(sample.image, colour[labels], config.opacity), interpolation="none")
            axes.set_axis_off()
            if keypoints and sample.keypoints is not None:
                _number_points(axes, sample, config.cell)
            if config.file_names:
                name = PurePosixPath(sample.name).name
                middle = (place[0] + config.cell / 2) / width
                under = (place[1] - 0.03) / height
                said = made.text(middle, under, name, ha="center", va="top", fontsize=6, parse_math=False)
                _shorten(said, config.cell - GAP, keeps_end=True)  # many begin alike
        top -= row_height + GAP + text
    base = legend + below
    for texts, per_line in keys:
        for place, said in enumerate(texts):
            left, bottom = place % per_line * width / per_line, base - LINE * (place // per_line + 1)
            if texts is parts:
                chip = made.add_axes([left / width, bottom / height, 0.1 / width, 0.1 / height])
                chip.imshow(tint(np.full((20, 20), colour[place + 1])), interpolation="none")
                chip.set(xticks=[], yticks=[])
                chip.spines[:].set(linewidth=0.3, color="gray")
            else:
                middle = [(left + 0.05) / width], [(bottom + 0.05) / height]
                made.add_artist(Line2D(*middle, transform=made.transFigure, **DOT))
            beside_it = made.text((left + BESIDE) / width, bottom / height, said, va="bottom", fontsize=KEY)
            _shorten(beside_it, width / per_line - BESIDE - GAP)
        base -= LINE * (-(-len(texts) // per_line) + 0.5)
    if note:
        made.text(0, below / height, note, va="top", fontsize=6)
    return made


def _width(texts: Sequence[str]) -> float:
    """Inches of a column of the legend."""
    paths = (TextPath((0, 0), text.replace("$", r"\$"), size=KEY) for text in texts)
    return BESIDE + 2 * GAP + max(path.get_extents().width for path in paths) / POINTS


def _shorten(text: Text, room: float, keeps_end: bool = False) -> None:
    """To what fits into some inches, with an ellipsis for the rest."""
    whole = text.get_text()
    for length in range(len(whole) - 1, -1, -1):
        if text.get_window_extent().width <= room * text.figure.dpi:
            return
        text.set_text("…" + whole[len(whole) - length :] if keeps_end else whole[:length] + "…")


def _number_points(axes: Axes, sample: Sample, cell: float) -> None:
    """A dot and its number at each visible keypoint of a picture that is so many inches wide."""
    visible = np.flatnonzero(sample.keypoints[:, 2] > 0)
    points, numbers = sample.keypoints[visible, :2], [str(place + 1) for place in visible]
    height, width = sample.image.shape[:2]
    point = width / cell / 72  # pixels of a printer's point
    # Digits of the font are 0.64 of its size wide and 0.73 high, and have a margin.
    extents = NUMBER * point * np.array([[0.64 * len(said) + 0.2, 0.73 + 0.2] for said in numbers]).reshape(-1, 2)
    centres = beside(points, extents, DOT["markersize"] / 2 * point, (width, height))
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
    for said, *ends in zip(numbers, points, centres, strict=True):
        axes.plot(*np.transpose(ends), color=DOT["markeredgecolor"], linewidth=0.3)
        axes.text(*ends[1], said, fontsize=NUMBER, ha="center", va="center_baseline", bbox=box)
    axes.plot(*points.T, linestyle="none", **DOT)


if __name__ == "__main__":
    app.run("evaluation_figure", figure, FigureConfig)
