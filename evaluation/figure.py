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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from omegaconf import MISSING, DictConfig

from conf import app
from conf.fields import choice, number, probability
from conf.schema import EvaluateConfig
from datasets.sample import VOID, Sample
from evaluation import run
from evaluation.compare import Method, chosen_pictures, fit, maps_of, methods_of, shared_pictures
from evaluation.labellers.label_maps import LabelMaps
from evaluation.matching import matched_accuracy, recolouring
from evaluation.pages.comparison import STYLE, painted
from evaluation.palette import colours, tint
from evaluation.protocols.base import met
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import require_writable

GAP, LINE = 0.04, 0.16  # inches between pictures, and of a line of text


@dataclass
class FigureConfig(EvaluateConfig):
    pictures: list[str] = MISSING
    count: int = number(low=1)
    columns: int = number(low=1)
    matched_on: int = number(low=1)
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
    shared = shared_pictures([method])
    wanted = chosen_pictures(config, shared)
    fit(method, fabric.device)
    matched = to_match(method, [shared[place] for place in run.spread(config.matched_on, len(shared))])
    seen = dict.fromkeys([*wanted, *matched])
    maps = {sample.name: (sample, labels) for sample, labels in maps_of(method, seen, fabric.device)}
    found = [maps[name] for name in wanted]
    num_parts = method.labeller.largest_label
    if isinstance(method.labeller, LabelMaps):  # which knows only how many there can be
        said = config.predictions_num_parts or len(config.part_names)
        num_parts = max(1, said, *(int(labels.max()) for _, labels in maps.values()))
    if config.part_names and len(config.part_names) != num_parts:
        raise UserError(f"part_names are {len(config.part_names)}, parts {num_parts}: name each, or none.")
    colour = colours_of_parts(method.sets.test.part_names, num_parts, [maps[name] for name in matched])
    points = method.sets.test.keypoint_names if config.keypoints else []
    if config.keypoints and not points:
        raise UserError(f"keypoints=true: {method.sets.test.name} has none. Leave it out.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE | {"svg.fonttype": "none"}):
            drawn = draw(config, found, colour, points)
            for file in files:
                drawn.savefig(file, dpi=config.dpi)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename or output}: {error.strerror or error}.") from error
    print("Figure: " + ", ".join(map(str, files)))


def to_match(method: Method, names: Sequence[str]) -> list[str]:
    """Those of some pictures whose true parts can be set beside what is found; of label maps not all may be there."""
    if method.sets.test.part_names is None:
        return []
    if not isinstance(method.labeller, LabelMaps):
        return list(names)
    return [name for name in names if (method.labeller.directory / f"{name}.png").is_file()]


def colours_of_parts(
    true_names: Sequence[str] | None, num_parts: int, matched: Sequence[tuple[Sample, np.ndarray]]
) -> np.ndarray:
    """(1 + K,) int, for each label the one whose colour it has: as in the report that of the true part it matches best.

    Args:
        true_names: of the true parts.
        matched: pictures with their label maps (H, W); of none each part has the colour of its number.
    """
    known = [(sample.part_map, labels) for sample, labels in matched if sample.part_map is not None]
    if not known:
        return np.arange(num_parts + 1)
    shape = (len(true_names) + 1, num_parts + 1)
    counts = sum(met(true[on], labels[on], shape) for true, labels in known for on in [(true > 0) & (true != VOID)])
    assignment = matched_accuracy(counts[1:, 1:], many_to_one=False)[1] if counts[1:, 1:].any() else None
    return np.arange(num_parts + 1) if assignment is None else recolouring(assignment, len(true_names))


def draw(
    config: DictConfig, found: Sequence[tuple[Sample, np.ndarray]], colour: np.ndarray, keypoints: Sequence[str]
) -> Figure:
    """The figure: rows of ``config.columns`` pictures, each row as high as its highest, and the legend below.

    Args:
        found: pictures with their label maps (H, W).
        colour: (1 + K,) int, for each label the one whose colour it has; the legend has all K.
        keypoints: names of those that are drawn.
    """
    columns, num_parts = min(config.columns, len(found)), len(colour) - 1
    rows = [found[start : start + columns] for start in range(0, len(found), columns)]
    text = LINE * config.file_names
    heights = [max(sample.image.shape[0] / sample.image.shape[1] for sample, _ in row) * config.cell for row in rows]
    width = columns * (config.cell + GAP) - GAP
    per_line = max(int(width / (1.0 if config.part_names else 0.65)), 1)
    legend = LINE * (-(-num_parts // per_line) + 0.5) if config.legend else 0
    height = sum(heights) + len(rows) * (GAP + text) - GAP + legend
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
            _name_points(axes, sample, keypoints)
            if config.file_names:
                name = PurePosixPath(sample.name).name
                middle = (place[0] + config.cell / 2) / width
                said = made.text(middle, (place[1] - 0.03) / height, name, ha="center", va="top", fontsize=6)
                _shorten(said, config.cell, keeps_end=True)  # many begin alike
        top -= row_height + GAP + text
    for part in range(num_parts if config.legend else 0):
        line, place = divmod(part, per_line)
        left, base = place * width / per_line, legend - LINE * (line + 1)
        chip = made.add_axes([left / width, base / height, 0.1 / width, 0.1 / height])
        chip.imshow(tint(np.full((20, 20), colour[part + 1])), interpolation="none")
        chip.set(xticks=[], yticks=[])
        chip.spines[:].set(linewidth=0.3, color="gray")
        said = f"{part + 1} {config.part_names[part]}" if config.part_names else str(part + 1)
        beside = made.text((left + 0.14) / width, base / height, said, va="bottom", fontsize=7)
        _shorten(beside, width / per_line - 0.14 - GAP)
    return made


def _shorten(text: Text, room: float, keeps_end: bool = False) -> None:
    """To what fits into some inches, with an ellipsis for the rest."""
    whole = text.get_text()
    for length in range(len(whole) - 1, -1, -1):
        if text.get_window_extent().width <= room * text.figure.dpi:
            return
        text.set_text("…" + whole[len(whole) - length :] if keeps_end else whole[:length] + "…")


def _name_points(axes: Axes, sample: Sample, names: Sequence[str]) -> None:
    points = zip(names, sample.keypoints if names else (), strict=True)
    for place, (name, (x, y, visible)) in enumerate(points, start=1):
        if visible:
            colour = colours(np.array(place)) / 255
            axes.plot(x, y, "o", color=colour, markersize=3, markeredgecolor="black", markeredgewidth=0.4)
            box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
            # Towards the middle, where there is room.
            right = x > 0.7 * sample.image.shape[1]
            beside = {"xytext": (-3 if right else 3, 2), "ha": "right" if right else "left"}
            axes.annotate(name, (x, y), textcoords="offset points", fontsize=4, bbox=box, **beside)


if __name__ == "__main__":
    app.run("evaluation_figure", figure, FigureConfig)
