"""A run as a page, ``index.html`` in its directory: its curves and pictures so far, made from its own files.

Curves are SVG of our own, and not a plotting library's: they take the reader's colours, light or dark, any width, and
milliseconds. Pictures stay beside the page and are linked, so that it remains small however many there are.
"""

import csv
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.palette import colours
from utils.files import written_whole
from utils.forecast import duration

NAME = "index.html"
SECONDS_BETWEEN = 30  # from one writing to the next, at least ...
SHARE = 0.01  # ... and so long that it takes no more of the time
MOST_POINTS = 240  # of a curve: of more, each is the mean of several
MOST_CURVES = 32  # of a table: with hundreds of parts the rest is in the file
LINES = 12  # of the log
WIDTH, HEIGHT = 300, 100  # of a curve's own coordinates

# Table -> its heading, and what of it needs a word.
TABLES = {
    "metrics": ("Losses", "The weighted sum of the losses is total."),
    "evaluation": ("Held-out pictures", "Percent. No checkpoint is chosen by them."),
    "part_areas": ("Areas of the parts", "Percent of the foreground, in the training pictures above."),
    "timing": ("Time and memory", ""),
}


@dataclass(frozen=True)
class State:
    """Where a run is.

    Attributes:
        step: updates done, of ``num_steps``.
        outcome: "running", "done", or how it ended otherwise.
        pace: seconds a step; None where that is not known yet.
        left: seconds until the end.
    """

    step: int
    num_steps: int
    outcome: str = "running"
    pace: float | None = None
    left: float | None = None


class Page:
    """Keeps a run's ``index.html`` up to date. One that cannot be written is told once, and left as it was.

    Args:
        run: the run's directory.
        say: prints a line.
    """

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._due, self._between, self._told = 0.0, float(SECONDS_BETWEEN), False

    def refresh(self, state: Callable[[], State]) -> None:
        """Writes it where that is due."""
        if time.monotonic() >= self._due:
            self.write(state())

    def write(self, state: State) -> None:
        """Writes it; whoever has it open sees the old one or the new one, whole."""
        began = time.monotonic()
        try:
            text = rendered(self._run, state, datetime.now(), self._between)
            with written_whole(self._run / NAME) as part:
                part.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
        except OSError as error:
            if not self._told:
                self._told = True
                self._say(f"warning: cannot write {self._run / NAME}: {error.strerror or error}. Going on without it.")
        ended = time.monotonic()
        self._between = max(SECONDS_BETWEEN, (ended - began) / SHARE)
        self._due = ended + self._between


def rendered(run: Path, state: State, now: datetime, between: float) -> str:
    """The page's HTML.

    Args:
        between: seconds until it is written again, while the run goes on.
    """
    log = run / "train.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    ends = now + timedelta(seconds=state.left) if state.left is not None else None
    return _template().render(
        name=run.resolve().name,
        state=asdict(state),
        facts=_facts(state, now, ends),
        now=now,
        between=between,
        pictures=pictures(run),
        colours=_colours(run),
        tables=[*_tables(run)],
        lines=lines[-LINES:],
        config=(run / "config.yaml").read_text(encoding="utf-8") if (run / "config.yaml").is_file() else "",
        width=WIDTH,
        height=HEIGHT,
    )


def _facts(state: State, now: datetime, ends: datetime | None) -> dict[str, str]:
    facts = {"Steps": f"{state.step:,} of {state.num_steps:,}"}
    if state.pace is not None:
        facts["Speed"] = f"{state.pace:.3g} s a step"
    if state.outcome == "running" and ends is not None:
        day = "" if ends.date() == now.date() else f"{ends:%d %B}, "
        facts["Time left"] = f"{duration(state.left)}, until {day}{ends:%H:%M}"
    return facts


def pictures(run: Path) -> dict[str, list[int]]:
    """The steps of each name's ``pictures/NAME_STEP.png``, in order."""
    steps: dict[str, list[int]] = defaultdict(list)
    for path in (run / "pictures").glob("*.png"):
        if found := re.fullmatch(r"(.+)_(\d+)", path.stem):
            steps[found[1]].append(int(found[2]))
    return {name: sorted(of_name) for name, of_name in sorted(steps.items())}


def _colours(run: Path) -> dict[str, str]:
    """CSS colours of the parts in the pictures, by the names that they have in the table of their areas."""
    names = [*read(run / "part_areas.csv")]
    return {name: f"rgb{(*colours(np.array(part)).tolist(),)}" for part, name in enumerate(names, start=1)}


def _tables(run: Path) -> Iterator[dict[str, Any]]:
    for name, (title, note) in TABLES.items():
        columns = read(run / f"{name}.csv")
        shown = dict(sorted(columns.items(), key=lambda item: item[0] != "total")[:MOST_CURVES])
        curves = [{"name": column, **curve(*rows)} for column, rows in shown.items()]
        more = f"{len(columns) - MOST_CURVES} more are in {name}.csv." if len(columns) > MOST_CURVES else ""
        if curves:
            yield {"title": title, "note": f"{note} {more}".strip(), "file": f"{name}.csv", "curves": curves}


def read(table: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each column of a run's table, in its order; nothing where it is not there yet."""
    columns: dict[str, tuple[list[int], list[float]]] = {}
    if not table.is_file():
        return columns
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            step = row.pop("step", None)
            for name, value in row.items():
                if step and value and name:  # a row that is being written may be cut off
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(int(step))
                    values.append(float(value))
    return columns


def curve(steps: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
    """A curve in the coordinates of its SVG, which has y downwards.

    Returns:
        ``line``, ``band`` (a polygon between the lowest and highest of what each point is the mean of; empty where that
        is one value), ``steps`` and ``values`` of its points, ``low`` and ``high`` of all values, ``first`` step and
        ``last`` value.
    """
    size = -(-len(steps) // MOST_POINTS)
    groups = [slice(start, start + size) for start in range(0, len(steps), size)]
    ends = [steps[group][-1] for group in groups]
    means = [sum(values[group]) / len(values[group]) for group in groups]
    low, high = min(values), max(values)

    def points(of: Sequence[float]) -> list[str]:
        across = [WIDTH * (end - steps[0]) / (ends[-1] - steps[0] or 1) for end in ends]
        down = [HEIGHT * (high - y) / (high - low) if high > low else HEIGHT / 2 for y in of]
        return [f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True)]

    band = []
    if size > 1:
        band = points([max(values[group]) for group in groups])
        band += reversed(points([min(values[group]) for group in groups]))
    return {
        "line": " ".join(points(means)),
        "band": " ".join(band),
        "steps": ends,
        "values": [figure(value) for value in means],
        "first": steps[0],
        "low": low,
        "high": high,
        "last": values[-1],
    }


def figure(value: float) -> str:
    """Four digits, ``1,295`` and not ``1.295e+03``."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


@cache
def _template() -> Any:
    folder = Path(__file__).parent / "pages"
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = figure
    environment.filters["words"] = lambda name: name.replace("_", " ")
    return environment.get_template("run.html")
