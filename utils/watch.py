"""Follow a run in a terminal, from its own files: ``python -m utils.watch RUN``, until it ends.

    python -m utils.watch runs/my_run
    python -m utils.watch runs/my_run | grep step
    python -m utils.watch runs/my_run && python evaluate.py checkpoint=runs/my_run

Its status is 0 if the run has come to its end, else 1.
A terminal shows its losses and figures as they come; elsewhere the lines of its log are printed.
"""

import conf.start  # noqa: F401

# isort: split
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from rich.box import SIMPLE
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from utils.console import stdout
from utils.errors import UserError
from utils.forecast import duration
from utils.page import figure, read
from utils.run_directory import is_locked, to_resume

SECONDS_BETWEEN = 2  # looks
BLOCKS = "▁▂▃▄▅▆▇█"
LONG = 600  # seconds without news, of a log that has a line every minute but while pictures are evaluated
WIDTH = 32  # of a curve, characters
LINES = 5  # of the log, below
BESIDES = 6  # lines that are neither of the table's rows nor of the log


class Run:
    """What a run's files say now.

    Raises:
        UserError: it is no run's directory, or its config is damaged.
    """

    def __init__(self, path: Path) -> None:
        config = path / "config.yaml"
        if not config.is_file():
            what = "has no config.yaml" if path.is_dir() else "is a file" if path.exists() else "is not there"
            raise UserError(f"{path} is not a run: it {what}. Give the run directory that train.py has printed.")
        try:
            self.num_steps = yaml.safe_load(config.read_text())["num_steps"]
        except (yaml.YAMLError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{config} is damaged or of another program: it has no num_steps to read.") from error
        self.path, self._told = path, 0

    def is_over(self) -> bool:
        """Whether no process trains in it; where there are no locks to tell: it is done, or long without news."""
        locked, log = is_locked(self.path), self.path / "train.log"
        if locked is not None or self.is_done() or not log.is_file():
            return not locked
        return time.time() - log.stat().st_mtime > LONG

    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return any(line.endswith("  Done.") for line in self.lines()[-1:])

    def lines(self) -> list[str]:
        """Of its log; the last one may be in the middle of being written."""
        log = self.path / "train.log"
        return log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []

    def new_lines(self) -> Iterator[str]:
        """Those that this has not given yet."""
        lines = self.lines()
        yield from lines[self._told :]
        self._told = len(lines)

    def shown(self, height: int, runs: bool = True) -> Group:
        """Progress, curves and the end of the log, in so many lines; and the time left if it runs."""
        losses, timing = read(self.path / "metrics.csv"), read(self.path / "timing.csv")
        figures = read(self.path / "evaluation.csv")
        step = max((steps[-1] for steps, _ in losses.values()), default=0)
        pace = timing["seconds_per_step"][1][-1] if "seconds_per_step" in timing else None
        speed = f"   {pace:.3g} s a step" if pace else ""
        left = f"   {duration(pace * (self.num_steps - step))} left" if pace and runs else ""
        head = Text(f"{self.path.resolve().name}   step {step:,} of {self.num_steps:,}{speed}{left}", "bold")
        table = Table(box=SIMPLE, padding=(0, 1))
        for title in ("", "last", "lowest", "highest", "so far"):
            table.add_column(title, justify="right" if title in ("last", "lowest", "highest") else "left", no_wrap=True)
        rows = sorted((losses | figures).items(), key=lambda row: row[0] != "total")
        for name, (_, values) in rows[: max(1, height - LINES - BESIDES)]:
            numbers = map(figure, (values[-1], min(values), max(values)))
            table.add_row(name, *numbers, sparkline(values))
        bar = ProgressBar(total=self.num_steps, completed=step, width=60)
        said = (Text(line, "dim", overflow="ellipsis", no_wrap=True) for line in self.lines()[-LINES:])
        return Group(head, bar, table, *said)


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """A curve of at most so many characters, each the mean of as many values as the others."""
    size = -(-len(values) // width)
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(group) / len(group) for group in groups]
    low, high = min(means), max(means)
    return "".join(BLOCKS[round((mean - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for mean in means)


def follow(path: Path) -> int:
    """Shows a run until it ends.

    Returns:
        The exit status: 0 if the run has come to its end, 1 if it ended before.

    Raises:
        UserError: see :class:`Run`.
    """
    run, console = Run(path), stdout()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            over = False
            while not over:
                over = run.is_over()  # first, so that what is last is read after it
                live.update(run.shown(console.height, not over), refresh=True)
                time.sleep(0 if over else SECONDS_BETWEEN)
    else:
        over = False
        while not over:
            over = run.is_over()
            for line in run.new_lines():
                print(line, flush=True)
            time.sleep(0 if over else SECONDS_BETWEEN)
    done = run.is_done()
    if not done:
        start = "" if [*path.glob("checkpoints/model_*.pth")] else " (from step 1: nothing was saved)"
        print(f"Nothing trains in {path}. To go on with it{start}: python train.py {to_resume(path)}", flush=True)
    return 0 if done else 1


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    try:
        if len(arguments) != 1 or not arguments[0]:
            raise UserError("give one run directory: python -m utils.watch runs/DATE_NAME")
        return follow(Path(arguments[0]).expanduser())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
