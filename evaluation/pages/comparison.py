"""A comparison as a page, and as a figure for a paper."""

import logging
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image

from datasets.sample import Sample
from evaluation.pages.measured import Figures
from evaluation.pages.report import chip, page
from evaluation.palette import tint
from utils.errors import UserError

# Of every step of putting a font into a PDF.
logging.getLogger("fontTools").setLevel(logging.WARNING)

SIDE = 384  # pixels: the longest side of a picture
CELL, GAP, DPI = 1.15, 0.03, 300  # inches of a cell of the figure and between two, and dots of its PNG
TRUE = "true parts"  # title of the annotation's column
NEAREST = Image.Resampling.NEAREST
STYLE = {"font.family": "sans-serif", "font.size": 8, "pdf.fonttype": 42}  # fonts that journals take


@dataclass
class Column:
    """What one method, or the annotation, says of all pictures.

    Attributes:
        title: for readers.
        maps: name of a sample -> (H, W) uint8, 0 is background.
        figures: of the method; None where there are none, as of the annotation.
        recolouring: (1 + labels,) int: for each label the one whose colour it has.
    """

    title: str
    maps: Mapping[str, np.ndarray]
    figures: Figures | None = None
    recolouring: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.num_labels = max(int(labels.max()) for labels in self.maps.values())
        self.recolouring = np.arange(self.num_labels + 1)


def write(
    output: Path,
    config: DictConfig,
    samples: Sequence[Sample],
    columns: Sequence[Column],
    notes: Sequence[str] = (),
    of_figures: str = "",
) -> list[Path]:
    """Write ``comparison.html``, ``.png`` and ``.pdf``: a row for each sample, a column for each of ``columns``.

    Args:
        notes: sentences that a reader of the pictures should know.
        of_figures: one beside the figures.

    Returns:
        The files.

    Raises:
        UserError: one cannot be written.
    """
    files = [output / f"comparison.{ending}" for ending in ("html", "png", "pdf")]
    try:
        output.mkdir(parents=True, exist_ok=True)
        files[0].write_text(
            _page(config, samples, columns, notes, of_figures), encoding="utf-8", errors="backslashreplace"
        )
        with matplotlib.rc_context(STYLE):
            figure = _figure(samples, columns, config.opacity, notes)
            for file in files[1:]:
                figure.savefig(file, dpi=DPI)
    except OSError as error:
        raise UserError(f"Cannot write {error.filename or output}: {error.strerror or error}.") from error
    return files


def _page(
    config: DictConfig,
    samples: Sequence[Sample],
    columns: Sequence[Column],
    notes: Sequence[str],
    of_figures: str,
) -> str:
    rows = []
    for sample in samples:
        name = sample.name
        image, *maps = _cells(sample, columns)
        height, width = image.shape[:2]
        cells = [
            {"found": tint(labels), "alt": f"{name}, {column.title}: {_said(column, name)}"}
            for column, labels in zip(columns, maps, strict=True)
        ]
        rows.append({"name": name, "image": image, "size": (width, height), "cells": cells})
    return page(
        "comparison.html",
        title="Methods on the same pictures",
        columns=[
            {
                "title": column.title,
                "chips": [(label, chip(column.recolouring[label])) for label in range(1, column.num_labels + 1)],
            }
            for column in columns
        ],
        figures=_figures(columns),
        notes=notes,
        of_figures=of_figures,
        rows=rows,
        opacity=round(100 * config.opacity),
        command=shlex.join(["python", "-m", "evaluation.compare", *sys.argv[1:]]),
    )


def _figures(columns: Sequence[Column]) -> dict[str, Any] | None:
    """The table of figures; None where there are none."""
    own = [column for column in columns if column.figures]
    if not own:
        return None
    sources: dict[str, list[str]] = {}
    for column in own:
        if column.figures.source:
            sources.setdefault(str(column.figures.source), []).append(column.title)
    return {
        "columns": [{"title": column.title, "figures": column.figures.metrics, "published": None} for column in own],
        "names": list(dict.fromkeys(name for column in own for name in column.figures.metrics)),
        "pictures": [column.figures.num_pictures for column in own],
        "sources": sources,
        "lacking": [column.title for column in columns if not column.figures and column.title != TRUE],
    }


def _said(column: Column, name: str) -> str:
    labels = column.maps[name]
    shares = np.bincount(labels.ravel(), minlength=column.num_labels + 1) / labels.size
    held = [f"part {part} {100 * share:.0f} %" for part, share in enumerate(shares) if part and share > 0]
    return ", ".join(held) or "nothing"


def _cells(sample: Sample, columns: Sequence[Column]) -> list[np.ndarray]:
    """The photograph (h, w, 3) and the recoloured label maps (h, w), at the page's size."""
    height, width = sample.image.shape[:2]
    scale = min(SIDE / max(height, width), 1)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    maps = [np.asarray(Image.fromarray(column.maps[sample.name]).resize(size, NEAREST)) for column in columns]
    image = np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS))
    return [image, *(column.recolouring[labels] for column, labels in zip(columns, maps, strict=True))]


def painted(image: np.ndarray, labels: np.ndarray, opacity: float) -> np.ndarray:
    """The photograph (h, w, 3) uint8 with its labels (h, w) in colour over it, as the page has them."""
    grey = min(1.5 * opacity, 1)
    below = (1 - grey) * image + grey * image.mean(axis=2, keepdims=True)
    paint = tint(labels).astype(float)
    over = opacity * paint[..., 3:] / 255
    return ((1 - over) * below + over * paint[..., :3]).round().astype(np.uint8)


def footnote(notes: Sequence[str], width: float) -> str:
    """Sentences in lines that are, at 6 points, no longer than some inches."""
    return "\n".join(line for note in notes for line in textwrap.wrap(note, max(int(width * 72 / (0.55 * 6)), 1)))


def _figure(samples: Sequence[Sample], columns: Sequence[Column], opacity: float, notes: Sequence[str]) -> Figure:
    heights = [sample.image.shape[0] / sample.image.shape[1] for sample in samples]
    size = (CELL * (len(columns) + 1), (CELL + GAP) * sum(heights) + 0.25)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=GAP / 2, h_pad=GAP / 2, wspace=0, hspace=0)
    axes = figure.subplots(len(samples), len(columns) + 1, squeeze=False, height_ratios=heights)
    for row, sample in zip(axes, samples, strict=True):
        image, *maps = _cells(sample, columns)
        row[0].imshow(image)
        for cell, labels in zip(row[1:], maps, strict=True):
            cell.imshow(painted(image, labels, opacity))
        for cell in row:
            cell.set_axis_off()
    for cell, title in zip(axes[0], ["", *(column.title for column in columns)], strict=True):
        cell.set_title(title, fontsize=8, pad=3)
    if notes:
        figure.supxlabel(footnote(notes, size[0]), x=0.01, ha="left", fontsize=6)
    return figure
