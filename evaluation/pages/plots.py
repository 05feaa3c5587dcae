"""Plots of a page, as SVG that stands in it: text is the page's own, and what is black has the colour of its text."""

import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.palette import colours, round_of

# A colour that nothing else has stands for that of the page's text, which is another one in the dark.
INK, FAINT = "#010203", "#010204"
WIDTH = 5.2  # inches
DOTS = 300  # pictures whose centres are drawn, spread evenly
NUMBERED = 16  # parts whose means have room for large numbers
STRIPES = ("////", "\\\\\\\\", "||||", "----")  # of labels that share a colour, in the directions of their chips
LIGHTNESS = (0.3, 0.6, 0.1)  # how much red, green and blue count
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
}


def areas(shares: np.ndarray, labels: np.ndarray, names: Sequence[str], noun: str) -> str:
    """How much of what was found each part holds: half of the pictures lie in a box, nine in ten within its lines.

    Args:
        shares: (N, K) percent; NaN where a part is nowhere.
        labels: (K,) int, whose colours and stripes the parts have.
        names: of the parts.
        noun: what they are called, one of them.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "areas"}):
        figure, axes = _axes(0.7 + 0.26 * len(names))
        held = [column[~np.isnan(column)] for column in shares.T]
        boxes = axes.boxplot(
            held,
            orientation="horizontal",
            patch_artist=True,
            showfliers=False,
            whis=(5, 95),
            widths=0.55,
            medianprops={"color": INK, "linewidth": 1.2},
            whiskerprops={"color": FAINT},
            capprops={"color": FAINT},
        )
        for box, colour, turn in zip(boxes["boxes"], colours(labels) / 255, round_of(labels), strict=True):
            box.set(facecolor=colour, edgecolor=FAINT, linewidth=0.5)
            if turn:
                box.set(hatch=STRIPES[(turn - 1) % len(STRIPES)], edgecolor=colour / 3)
        _rows(axes, names, start=1)
        axes.set_xlim(0, None)
        axes.set_xlabel(f"share of all {noun}s, %")
        return _svg(figure)


def centres(places: np.ndarray, labels: np.ndarray) -> str:
    """Where the parts' centres lie in the pictures: small dots, and by its number the mean.

    Args:
        places: (N, K, 2), fractions of width and height; NaN where a part is nowhere.
        labels: (K,) int, whose colours the parts have.
    """
    chosen = places[np.linspace(0, len(places) - 1, min(DOTS, len(places))).round().astype(int)]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "centres"}):
        figure = Figure(figsize=(3.6, 3.6))
        axes = figure.add_axes([0.01, 0.01, 0.98, 0.98])
        size, text = (150, 8) if len(labels) <= NUMBERED else (90, 6)
        for part, colour in enumerate(colours(labels) / 255):
            of_part = chosen[~np.isnan(chosen[:, part, 0]), part]
            axes.scatter(*of_part.T, s=5, color=colour, linewidths=0, alpha=0.55)
        for part, colour in enumerate(colours(labels) / 255):
            if not np.isnan(places[:, part]).all():
                x, y = np.nanmean(places[:, part], axis=0)
                axes.scatter(x, y, s=size, color=colour, edgecolors=INK, linewidths=1.2, zorder=3)
                ink = "#111111" if np.dot(colour, LIGHTNESS) > 0.5 else "#ffffff"
                # As high as its dot: one that covers another dot covers its number too.
                axes.text(x, y, str(part + 1), color=ink, ha="center", va="center", size=text, zorder=3)
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(True)
        return _svg(figure)


def errors(values: np.ndarray, names: Sequence[str]) -> str:
    """Keypoint errors, the smallest first; keypoints without one are left out."""
    order = [place for place in np.argsort(values) if not np.isnan(values[place])]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "errors"}):
        figure, axes = _axes(0.7 + 0.22 * len(order))
        bars = axes.barh(range(len(order)), values[order], height=0.6, color=INK, alpha=0.45)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        _rows(axes, [names[place] for place in order], start=0)
        axes.set_xlabel("mean distance, % of the box")
        return _svg(figure)


def agreements(values: np.ndarray) -> str:
    """How many pictures agree so far with what is known."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "agreements"}):
        figure, axes = _axes(1.6)
        axes.hist(values[~np.isnan(values)], bins=20, range=(0, 100), color=INK, alpha=0.45, rwidth=0.9)
        axes.set_xlabel("agreement, %")
        axes.set_ylabel("pictures")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return _svg(figure)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _rows(axes: Axes, names: Sequence[str], start: int) -> None:
    axes.set_yticks(range(start, start + len(names)), names)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    """The element alone, as wide as its place on the page allows."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    width = float(re.search(r' width="([\d.]+)pt"', text)[1])
    # As large as it was drawn where there is room: a point is a twelfth of a rem.
    text = re.sub(r' width="[\d.]+pt"', f' style="max-width: {width / 12:.1f}rem"', text, count=1)
    return re.sub(r' height="[\d.]+pt"', "", text, count=1)
