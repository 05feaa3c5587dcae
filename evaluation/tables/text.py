"""A table for readers: printed, as Markdown, as LaTeX; and with every digit as CSV."""

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from evaluation.tables.found import Result
from utils.errors import UserError

MOST_COLUMNS = 9  # of one table: with more there is one for each metric
OUTSIDE = "*"
PUBLISHED, MEASURED = "published", "measured"
COLUMNS = (
    *("row", "label", "data", "metric"),
    *("published", "published std", "published mean of five", "published std of five"),
    *("measured", "measured std", "seeds", "outside two published std", "status"),
)
_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", OUTSIDE: r"$^{*}$", **{sign: rf"\{sign}" for sign in "&%$#_{}"}}
_LATEX |= {"^": r"\^{}", "~": r"\textasciitilde{}", "[": "{[}"}  # [ after a line would be its option


@dataclass
class Figures:
    """A metric of an entry, all in percent.

    Attributes:
        published, published_deviation: by the paper.
        five_seeds: its mean and deviation over five seeds.
        measured: of each seed.
    """

    published: float | None
    published_deviation: float | None
    five_seeds: tuple[float, float] | None
    measured: list[float]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.measured) if self.measured else None

    @property
    def deviation(self) -> float | None:
        """Of a sample: divided by n - 1."""
        return statistics.stdev(self.measured) if len(self.measured) > 1 else None

    @property
    def outside(self) -> bool:
        """Whether the mean lies more than two of the published deviations from the published mean."""
        mean, deviation = self.five_seeds or (self.published, self.published_deviation)
        return deviation is not None and self.mean is not None and abs(self.mean - mean) > 2 * deviation

    @property
    def published_text(self) -> str:
        """``46.0 (45.3 ± 2.8)``, or ``43.2 ± 2.19``."""
        spread = f"({_short(self.five_seeds[0])} ± {_short(self.five_seeds[1])})" if self.five_seeds else ""
        own = "" if self.published is None else _short(self.published)
        if self.published_deviation is not None:
            own += f" ± {_short(self.published_deviation)}"
        return " ".join(filter(None, (own, spread))) or "-"

    @property
    def measured_text(self) -> str:
        """``45.9 ± 1.2* (3)``."""
        if self.mean is None:
            return "-"
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread}{OUTSIDE * self.outside} ({len(self.measured)})"


@dataclass
class Grid:
    """A table as text: a row's first cell is its label, the second what its figures are; ``""`` in both goes on."""

    title: str
    columns: list[str]
    lines: list[list[str]]


def figures(result: Result, metric: str) -> Figures:
    """Those of a metric."""
    entry = result.entry
    published = (own.get(metric) for own in (entry.published, entry.deviations, entry.five_seeds))
    return Figures(*published, result.values(metric))


def grids(title: str, results: Sequence[Result], metrics: Sequence[str]) -> list[Grid]:
    """One table, or one for each metric where it would be too wide; columns that are empty are left out."""
    by_row: dict[str, dict[str, Result]] = {}
    for result in results:
        by_row.setdefault(result.entry.row, {})[result.entry.data] = result
    data = list(dict.fromkeys(result.entry.data for result in results))
    everything = [(metric, name) for name in data for metric in metrics]
    columns = [column for column in everything if _any(by_row, *column)] or everything
    if len(columns) <= MOST_COLUMNS:
        several = any(result.entry.several for result in results)
        headings = [f"{name} {metric}" if several else metric for metric, name in columns]
        return [_grid(title, by_row, columns, [heading.replace("_", " ") for heading in headings])]
    return [
        _grid(f"{title}: {metric}", by_row, of_metric, [name for _, name in of_metric])
        for metric in metrics
        if (of_metric := [column for column in columns if column[0] == metric])
    ]


def footnotes(results: Sequence[Result], metrics: Sequence[str]) -> Iterator[str]:
    """What the signs mean that a table has, and the notes of its rows."""
    shown = [figures(result, metric) for result in results for metric in metrics]
    yield "All in percent. Measured: mean ± standard deviation (n - 1), in brackets the number of seeds."
    if any(cell.five_seeds for cell in shown):
        yield "Published in brackets: mean ± standard deviation of five seeds."
    if any(cell.published_deviation is not None for cell in shown):
        yield "Published behind ±: a deviation, of how many runs is not known."
    if any(cell.outside for cell in shown):
        yield f"{OUTSIDE} More than two of these deviations from their mean."
    labels: dict[str, dict[str, None]] = {}
    for entry in (result.entry for result in results):
        labels.setdefault(entry.spec.note, {})[entry.label] = None
    yield from (f"{'; '.join(own)}: {note}" for note, own in labels.items() if note)


def rich_table(grid: Grid) -> Table:
    """For the terminal: a narrow one may wrap between words, but cuts none, nor a figure with its deviation's sign."""
    lines = [[cell.replace(" ± ", "\u00a0±\u00a0") for cell in line] for line in grid.lines]
    table = Table(title=escape(grid.title), box=SIMPLE)
    for place, column in enumerate(grid.columns):
        words = [word for cell in (column, *(line[place] for line in lines)) for word in cell.split(" ")]
        table.add_column(escape(column), justify="left" if place < 2 else "right", min_width=max(map(len, words)))
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def markdown(grid: Grid) -> str:
    """A pipe table under its title."""
    rule = ["---", "---", *["---:"] * (len(grid.columns) - 2)]
    rows = [[cell.replace("|", r"\|") for cell in line] for line in (grid.columns, rule, *grid.lines)]
    lines = [f"| {' | '.join(line)} |" for line in rows]
    return "\n".join([f"# {grid.title}", "", *lines, ""])


def latex(grid: Grid, notes: Sequence[str]) -> str:
    """A ``table`` for the package ``booktabs``."""
    header, *lines = (" & ".join(map(_escaped, line)) + r" \\" for line in (grid.columns, *grid.lines))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escaped(' '.join([f'{grid.title}.', *notes]))}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(grid.columns) - 2)}}}",
            *(r"\toprule", header, r"\midrule", *lines, r"\bottomrule"),
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def rows(results: Sequence[Result], metrics: Sequence[str]) -> Iterator[dict[str, object]]:
    """For CSV: a row, with ``COLUMNS``, for each metric of each entry that has it, or a status instead."""
    for result in results:
        entry = result.entry
        for metric in metrics:
            cell = figures(result, metric)
            if cell.published is None and cell.five_seeds is None and not cell.measured and not result.status:
                continue
            has_spread = cell.five_seeds or cell.published_deviation is not None
            values = (
                *(entry.row, entry.label, entry.data, metric),
                *(cell.published, cell.published_deviation, *(cell.five_seeds or (None, None))),
                *(cell.mean, cell.deviation, len(cell.measured)),
                *(cell.outside if has_spread and cell.measured else None, result.status),
            )
            yield dict(zip(COLUMNS, values, strict=True))


def write(
    folder: Path, title: str, results: Sequence[Result], metrics: Sequence[str], notes: Mapping[str, Sequence[str]]
) -> None:
    """Write ``table.md``, ``table.tex`` and ``table.csv``.

    Args:
        notes: for the Markdown, heading -> lines.

    Raises:
        UserError: they cannot be written.
    """
    tables, signs, lines = grids(title, results, metrics), list(footnotes(results, metrics)), [*rows(results, metrics)]
    page = [*map(markdown, tables), *(f"{sign}  " for sign in signs), ""]
    for heading, own in notes.items():
        page += [f"## {heading}", "", *own, ""]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text("\n".join(page))
        (folder / "table.tex").write_text("\n".join(latex(grid, signs) for grid in tables))
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    except OSError as error:
        raise UserError(f"Cannot write output_dir {folder}: {error.strerror}. Give another one.") from error


def _any(by_row: Mapping[str, Mapping[str, Result]], metric: str, data: str) -> bool:
    of_data = [own[data] for own in by_row.values() if data in own]
    return any(result.values(metric) or metric in result.entry.published for result in of_data)


def _grid(title: str, by_row: Mapping, columns: Sequence[tuple[str, str]], headings: Sequence[str]) -> Grid:
    lines = []
    for own in by_row.values():
        some = next(iter(own.values())).entry
        cells = [figures(own[data], metric) for metric, data in columns]
        published = [cell.published_text for cell in cells]
        measured = [
            cell.measured_text if cell.measured else own[data].status or "-"
            for cell, (_, data) in zip(cells, columns, strict=True)
        ]
        has_published = any(text != "-" for text in published)
        if has_published:
            lines.append([some.label, PUBLISHED, *published])
        if any(result.entry.config is not None for result in own.values()) or not has_published:
            lines.append(["" if has_published else some.label, MEASURED, *measured])
    return Grid(title, ["", "", *headings], lines)


def _short(value: float) -> str:
    """With one decimal, or two where the second is none of nought."""
    return f"{value:.1f}" if round(value, 1) == round(value, 2) else f"{value:.2f}"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
