"""An evaluation as one page, ``report.html``, and as tables beside it: what a reader looks at before the figures."""

import base64
import csv
import io
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from evaluation.examples import Comparison
from evaluation.matching import matching_order
from evaluation.pages import plots
from evaluation.pages.points import beside
from evaluation.pages.published import published
from evaluation.pages.seen import Numbers, Seen, Shown
from evaluation.palette import tint
from evaluation.protocols.truth_free import MEANINGS, PRESENT
from evaluation.report import noun_of, true_comparison
from evaluation.run import Result
from utils.checkpoints import Checkpoint
from utils.files import written_whole

QUALITY = 80  # of WebP, of photographs
ALSO = ("compactness", "warp_agreement")  # of the figures of each part that need no truth, beside the page's own
# Keys that an evaluation takes with those of training, and does not use: their defaults are no setting of the run's.
OF_TRAINING = (
    *("batch_size", "num_steps", "devices", "num_nodes", "strategy", "resume", "logging", "checkpointing"),
    *("compile", "cuda_graph", "cudnn_search", "optimizer", "augmentation", "loss_weights"),
)
MOST_PLOTTED = 40  # parts, or keypoints, before a plot of them is left out: the table has them


@dataclass
class Column:
    """What was evaluated: a column of the table of figures.

    Attributes:
        title: for readers.
        baseline: its module; None: of what the evaluation is.
        result: its figures.
    """

    title: str
    baseline: str | None
    result: Result


@dataclass
class Evaluated:
    """What a page is made of.

    Attributes:
        config: of the evaluation.
        columns: the first is what was seen.
        seen: what was found in its pictures.
        num_pictures: in the held-out split.
        checkpoint: that was evaluated, if one was.
        num_parts: K of what is evaluated.
    """

    config: DictConfig
    columns: Sequence[Column]
    seen: Seen
    num_pictures: int
    checkpoint: Checkpoint | None
    num_parts: int

    @cached_property
    def numbers(self) -> Numbers:
        return self.seen.numbers()

    @cached_property
    def noun(self) -> str:
        """What is found, one of it."""
        return noun_of(self.seen.labeller, self.seen.protocol.dataset)

    @cached_property
    def names(self) -> list[str]:
        """Of the K parts."""
        if self.noun == "object":
            return ["the object"]
        given = self.config.part_names or [""] * self.seen.num_parts
        return [f"{self.noun} {part}" + (f": {name}" if name else "") for part, name in enumerate(given, start=1)]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        return self.columns[0].result.comparisons


def write(output: Path, evaluated: Evaluated) -> list[Path]:
    """Write ``per_picture.csv``, where there are keypoints ``parts_by_keypoint.csv``, and ``report.html``.

    Returns:
        The files.

    Raises:
        OSError: one cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = [_write_table(output / "per_picture.csv", per_picture(evaluated))]
    for comparison in evaluated.comparisons:
        if comparison.known == "keypoint":
            rows = by_keypoint(comparison, evaluated.seen.num_parts, evaluated.noun)
            files.append(_write_table(output / "parts_by_keypoint.csv", rows))
    page = output / "report.html"
    with written_whole(page) as part:
        part.write_text(rendered(evaluated), encoding="utf-8", errors="backslashreplace")
    return [*files, page]


def _write_table(path: Path, rows: Iterator[Sequence[Any]]) -> Path:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def per_picture(evaluated: Evaluated) -> Iterator[list[Any]]:
    """The rows of ``per_picture.csv``, names of columns first; what a picture does not have is empty."""
    numbers, noun, parts = evaluated.numbers, evaluated.noun, range(1, evaluated.seen.num_parts + 1)
    known, graded = numbers.agreement is not None, evaluated.seen.labeller.is_graded
    yield [
        *("name", "class"),
        *["agreement"] * known,
        "found",
        *(f"{what}_{noun}_{part}" for what in ("area", *["certainty"] * graded, "x", "y") for part in parts),
    ]
    for place, (name, label) in enumerate(zip(numbers.names, numbers.labels, strict=True)):
        areas = 100 * numbers.areas[place]
        certainty = 100 * numbers.certainty[place, 1:] if graded else ()
        values = [*areas[1:], *certainty, *numbers.centres[place, 1:, 0], *numbers.centres[place, 1:, 1]]
        agreement = [numbers.agreement[place]] if known else []
        cells = ["" if np.isnan(value) else f"{value:.4f}" for value in (*agreement, areas[1:].sum(), *values)]
        yield [name, "" if label is None else label, *cells]


def by_keypoint(comparison: Comparison, num_parts: int, noun: str) -> Iterator[list[Any]]:
    """The rows of ``parts_by_keypoint.csv``: how many of a keypoint's visible occurrences lie in each part."""
    yield ["keypoint", "visible", "background", *(f"{noun}_{part}" for part in range(1, num_parts + 1))]
    for name, counts in zip(comparison.names, comparison.counts, strict=True):
        yield [name, counts.sum(), *counts[: num_parts + 1]]


def rendered(evaluated: Evaluated) -> str:
    """The page."""
    seen, numbers, noun = evaluated.seen, evaluated.numbers, evaluated.noun
    colour = evaluated.columns[0].result.colours
    parts = list(_parts(evaluated, colour))
    heat_maps = [_heat_map(comparison, evaluated, colour) for comparison in evaluated.comparisons]
    found = numbers.areas[:, 1:]
    shares = 100 * np.where(numbers.present, found, np.nan) / np.maximum(found.sum(1, keepdims=True), 1e-12)
    places = np.where(numbers.present[..., None], numbers.centres[:, 1:], np.nan)
    few = 1 < seen.num_parts <= MOST_PLOTTED
    errors = [
        own
        for own in evaluated.comparisons
        if own.errors is not None and not np.isnan(own.errors).all() and len(own.names) <= MOST_PLOTTED
    ]
    known = numbers.agreement is not None and not np.isnan(numbers.agreement).all()
    figures = _figures(evaluated)
    return page(
        "report.html",
        title=_title(evaluated),
        facts=_facts(evaluated),
        noun=noun,
        figures=figures,
        meanings=[(name, MEANINGS[name]) for name in figures["names"] if name in MEANINGS] if figures else [],
        least=f"{100 * PRESENT:g} % or more of what is found",
        notes=list(dict.fromkeys(note for column in evaluated.columns for note in column.result.notes)),
        parts=parts,
        without_truth=[name for name in ALSO if any(name in part["without_truth"] for part in parts)],
        graded=seen.labeller.is_graded,
        areas=Markup(plots.areas(shares, colour[1:], evaluated.names, noun)) if few else None,
        centres=Markup(plots.centres(places, colour[1:])) if few else None,
        heat_maps=heat_maps,
        errors=Markup(plots.errors(errors[0].errors, errors[0].names)) if errors else None,
        agreements=Markup(plots.agreements(numbers.agreement)) if known else None,
        agreement_is=seen.protocol.agreement_is if known else None,
        grid=list(_grid(evaluated, colour)),
        true_parts=[(name, chip(label)) for label, name in enumerate(_true_names(evaluated), start=1)],
        num_seen=len(numbers.names),
        num_pictures=evaluated.num_pictures,
        classes=_classes(numbers),
        keypoints=_numbered(seen.protocol.dataset.keypoint_names),
        commands=_commands(evaluated.checkpoint),
        configs=_configs(evaluated),
    )


def page(template: str, **context: Any) -> str:
    """A template beside this module, filled."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    blocks = {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters["webp"] = webp
    return environment.get_template(template).render(**context)


def webp(picture: np.ndarray) -> str:
    """A ``data:`` address of RGB (lossy) or RGBA (lossless) pixels."""
    file = io.BytesIO()
    lossless = picture.shape[2] == 4
    # Of lossless pictures the quality is how long it tries to make them smaller.
    Image.fromarray(picture).save(
        file, "WEBP", quality=0 if lossless else QUALITY, lossless=lossless, method=0 if lossless else 2
    )
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def chip(label: int) -> str:
    """A ``data:`` address of a square in a label's colour."""
    return webp(tint(np.full((22, 22), label)))


def _title(evaluated: Evaluated) -> str:
    checkpoint, config = evaluated.checkpoint, evaluated.config
    if checkpoint:
        folder = checkpoint.file.parent
        name = (folder.parent if folder.name == "checkpoints" else folder).name
        return f"{name} on {config.dataset_name}"
    if evaluated.columns[0].baseline is None:
        return f"{Path(config.predictions).name} on {config.dataset_name}"
    return f"{evaluated.columns[0].title} on {config.dataset_name}"


def _facts(evaluated: Evaluated) -> dict[str, str]:
    config, checkpoint = evaluated.config, evaluated.checkpoint
    facts = {}
    if checkpoint:
        facts["method"] = config.method.name
        facts["checkpoint"] = f"{checkpoint.file}"
        if checkpoint.step is not None:
            facts["checkpoint"] += f", after {checkpoint.step:,} steps"
    elif evaluated.columns[0].baseline is None:
        facts["label maps"] = config.predictions
    else:
        facts["baseline"] = evaluated.columns[0].title
    facts["data"] = f"{config.dataset_name} in {config.dataset_root}"
    if evaluated.noun != "object":
        facts[f"{evaluated.noun}s"] = str(evaluated.seen.num_parts)
    seen = len(evaluated.numbers.names)
    of_all = "" if seen == evaluated.num_pictures else f" of {evaluated.num_pictures:,}, spread evenly"
    facts["held-out pictures"] = f"{seen:,}{of_all}"
    return facts


def _figures(evaluated: Evaluated) -> dict[str, Any] | None:
    """The table of figures; None where there is none."""
    columns = []
    for column in evaluated.columns:
        file = evaluated.checkpoint.file if evaluated.checkpoint and column.baseline is None else None
        of_method = file is not None or column.baseline is not None
        row = published(evaluated.config, evaluated.num_parts, column.baseline, file) if of_method else None
        columns.append({"title": column.title, "figures": column.result.metrics, "published": row})
    names = list(dict.fromkeys(name for column in columns for name in column["figures"]))
    if not names:
        return None
    for column in columns:
        row = column["published"]
        if row and not set(row.figures) & set(names):
            column["published"] = None
    return {"columns": columns, "names": names}


def _parts(evaluated: Evaluated, colour: np.ndarray) -> Iterator[dict[str, Any]]:
    numbers, strips = evaluated.numbers, evaluated.seen.strips()
    without_truth = evaluated.columns[0].result.parts
    for part in range(1, evaluated.seen.num_parts + 1):
        areas, certainty, there = numbers.areas[:, part], numbers.certainty[:, part], numbers.present[:, part - 1]
        share = areas[there] / np.maximum(numbers.areas[there, 1:].sum(1), 1e-12)
        x, y = numbers.centres[there, part].mean(0) if there.any() else (None, None)
        name = evaluated.names[part - 1]
        yield {
            "name": name,
            "chip": chip(colour[part]),
            "presence": 100 * there.mean(),
            "of_picture": 100 * areas.mean(),
            "share": 100 * share.mean() if there.any() else None,
            "certainty": 100 * certainty[there].mean() if there.any() else None,
            "x": x,
            "y": y,
            "without_truth": without_truth[part - 1] if without_truth else {},
            "strips": [
                [
                    {
                        "name": shown.name,
                        "image": shown.image,
                        "found": tint(np.where(shown.found == part, colour[part], 0)),
                        "alt": f"{shown.name}, {name}",
                    }
                    for shown in end
                ]
                for end in strips[part - 1]
            ],
        }


def _heat_map(comparison: Comparison, evaluated: Evaluated, colour: np.ndarray) -> dict[str, Any]:
    """Rows of what is known, columns of parts in the order that matches best, background last where there is any."""
    given = evaluated.config.part_names or [""] * evaluated.seen.num_parts
    short = ["object"] if evaluated.noun == "object" else [f"{n} {name}".strip() for n, name in enumerate(given, 1)]
    counts = comparison.counts[:, : evaluated.seen.num_parts + 1]
    totals = counts.sum(1)
    rows, columns = matching_order(counts[:, 1:])
    columns = [*(columns + 1), *([0] if counts[:, 0].any() else [])]
    known = comparison.known
    names = _numbered(comparison.names) if known == "keypoint" else comparison.names
    return {
        "known": known,
        "plural": f"{known}es" if known.endswith("s") else f"{known}s",
        "unit": comparison.unit,
        "has_errors": comparison.errors is not None,
        "columns": [
            {
                "name": short[part - 1] if part else "background",
                "chip": chip(colour[part]) if part else None,
            }
            for part in columns
        ],
        "rows": [
            {
                "name": names[row],
                "chip": chip(row + 1) if known.startswith("true") else None,
                "dot": known == "keypoint",
                "shares": [counts[row, part] / totals[row] if totals[row] else None for part in columns],
                "total": int(totals[row]),
                "error": None
                if comparison.errors is None or np.isnan(comparison.errors[row])
                else float(comparison.errors[row]),
            }
            for row in rows.tolist()
        ],
    }


def _grid(evaluated: Evaluated, colour: np.ndarray) -> Iterator[dict[str, Any]]:
    numbers = evaluated.numbers
    rows = {place: row for row, place in enumerate(numbers.places)}
    classes = dict(_classes(numbers))
    for order, shown in enumerate(evaluated.seen.grid()):
        row = rows[shown.place]
        areas = 100 * numbers.areas[row, 1:]
        agreement = None if numbers.agreement is None or np.isnan(numbers.agreement[row]) else numbers.agreement[row]
        held = [f"{name} {area:.0f} %" for name, area in zip(evaluated.names, areas, strict=True) if area > 0]
        said = [", ".join(held) or "nothing found"]
        said += [] if agreement is None else [f"agreement {agreement:.0f} %"]
        label = numbers.labels[row]
        yield {
            "order": order,
            "name": shown.name,
            "label": label,
            "class": classes.get(label),
            "agreement": agreement,
            "area": areas.sum(),
            "areas": " ".join(f"{area:.2f}" for area in areas),
            "image": shown.image,
            "found": tint(colour[shown.found]),
            "true": None if shown.true is None else tint(shown.true),
            **_points(shown),
            "size": shown.found.shape[::-1],
            "alt": f"{shown.name}: {'; '.join(said)}",
        }


def _true_names(evaluated: Evaluated) -> Sequence[str]:
    """Of the labels 1, 2, ... that pictures show as true."""
    if evaluated.noun == "object":
        return evaluated.names
    comparison = true_comparison(evaluated.comparisons)
    return comparison.names if comparison else []


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"{place} {name}" for place, name in enumerate(names, start=1)]


def _points(shown: Shown) -> dict[str, Any]:
    """Of each visible keypoint its number, its x and y and those of the number's middle; and both sizes; in pixels."""
    height, width = shown.found.shape
    text, radius = max(height, width) / 30, max(height, width) / 60
    given = np.zeros((0, 3)) if shown.points is None else shown.points
    visible = np.flatnonzero(given[:, 2] > 0)
    points = given[visible, :2] * [width, height]
    extents = text * np.array([[0.64 * len(str(place + 1)), 0.73] for place in visible]).reshape(-1, 2)
    ends = np.concatenate([points, beside(points, extents, radius, (width, height))], axis=1).round(1).tolist()
    return {
        "points": [(place + 1, *four) for place, four in zip(visible.tolist(), ends, strict=True)],
        "text": round(text, 1),
        "radius": round(radius, 1),
    }


def _classes(numbers: Numbers) -> list[tuple[int, str]]:
    """Each class that there is, with the folder that has its pictures for a name, if all of them lie in one."""
    folders: dict[int, set[str]] = {}
    for name, label in zip(numbers.names, numbers.labels, strict=True):
        if label is not None:
            folders.setdefault(label, set()).add(str(PurePosixPath(name).parent))
    named = len({folder for own in folders.values() for folder in own}) == len(folders) > 1
    return [(label, own.pop() if named else f"class {label}") for label, own in sorted(folders.items())]


def _commands(checkpoint: Checkpoint | None) -> Mapping[str, str]:
    """What made the run, if that says it, and what made this page."""
    commands = {}
    if checkpoint:
        noted = checkpoint.file.parent.parent / "code/environment.txt"
        lines = noted.read_text().splitlines() if noted.is_file() else []
        trained = next((line.partition(": ")[2] for line in lines if line.startswith("command: ")), None)
        if trained:
            commands["the run"] = f"python {trained}"
    commands["this page"] = shlex.join(["python", *sys.argv])
    return commands


def _configs(evaluated: Evaluated) -> Mapping[str, str]:
    """As YAML what the checkpoint was trained with, if it says that, and what the evaluation went by."""
    configs = {}
    if evaluated.checkpoint and evaluated.checkpoint.config:
        configs["the run"] = OmegaConf.to_yaml(OmegaConf.create(dict(evaluated.checkpoint.config)))
    own = [key for key in evaluated.config if key not in OF_TRAINING]
    configs["the evaluation"] = OmegaConf.to_yaml(OmegaConf.masked_copy(evaluated.config, own))
    return configs
