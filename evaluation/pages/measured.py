"""Figures of what a comparison shows, from the evaluations that its runs keep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datasets.lists import lists_of
from evaluation.options import Sets
from evaluation.tables.found import Baseline, Run, find
from evaluation.tables.rows import baseline_numbers, data_of, differences, evaluation_numbers
from utils.checkpoints import Checkpoint
from utils.console import say
from utils.sweep import metrics_after

SEEN = ("segmenter", "perceptual")  # networks that a baseline may see with


@dataclass(frozen=True)
class Figures:
    """Of one method.

    Attributes:
        metrics: name -> percent.
        num_pictures: that they are of.
        source: the file that has them; None: they were measured now.
        colours: (1 + K,) of its parts, see ``evaluation.run.Result``; None: they were not kept.
    """

    metrics: Mapping[str, float]
    num_pictures: int
    source: Path | None = None
    colours: Sequence[int] | None = None


class Kept:
    """The evaluations in the directories of some runs; what is damaged among them is said and left out.

    Args:
        runs: their directories.
    """

    def __init__(self, runs: Iterable[Path]) -> None:
        self._sources = []
        if runs := list(dict.fromkeys(runs)):
            found = find(runs)
            self._sources = found.sources
            for line in found.broken:
                say(line)

    def of_checkpoint(self, checkpoint: Checkpoint, config: DictConfig, sets: Sets) -> Figures | None:
        """Those of the newest evaluation of this checkpoint on these pictures, by the same settings.

        What the run has measured itself counts where evaluate.py has not.

        Args:
            config: that it would be evaluated with now.
        """
        plain, folder = OmegaConf.to_container(config), checkpoint.run
        found, own = [], []
        for run in self._sources:
            if not isinstance(run, Run) or folder is None or run.path.resolve() != folder.resolve():
                continue
            found += [
                _Measured(one.path, one.time, one.config, one.figures, one.colours)
                for one in run.evaluations
                if one.updates == checkpoint.step
            ]
            own += _by_itself(run, checkpoint.step)
        wanted = evaluation_numbers(plain)
        for those in (found, own):
            same = [one for one in those if not differences(wanted, evaluation_numbers(one.config))]
            if figures := _newest(same, plain, sets):
                return figures
        return None

    def of_baseline(self, name: str, num_parts: int, config: DictConfig, sets: Sets) -> Figures | None:
        """The same of a baseline that stood beside what was evaluated."""
        plain = OmegaConf.to_container(config)
        wanted = baseline_numbers(plain, name, SEEN, num_parts)
        own = [
            _Measured(source.path, source.evaluation.time, source.evaluation.config, source.evaluation.baselines[name])
            for source in self._sources
            if isinstance(source, Baseline)
            and source.name == name
            and source.evaluation.config["seed"] == plain["seed"]
            and not differences(
                wanted, baseline_numbers(source.evaluation.config, name, SEEN, source.evaluation.num_parts)
            )
        ]
        return _newest(own, plain, sets)


@dataclass(frozen=True)
class _Measured:
    """Figures, what they were made with, and when."""

    path: Path
    time: float
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    colours: Sequence[int] | None = None


def _by_itself(run: Run, step: int | None) -> list[_Measured]:
    """What a run's own table says of its last step, if that is the one."""
    table = run.path / "evaluation.csv"
    try:
        metrics = metrics_after(table, step) if step is not None and table.is_file() else None
    except (ValueError, TypeError, AttributeError) as error:
        say(f"{table} left out: it is damaged ({error}).")
        return []
    return [_Measured(table, table.stat().st_mtime, run.config, metrics)] if metrics else []


def _newest(found: Sequence[_Measured], config: Mapping[str, Any], sets: Sets) -> Figures | None:
    """Of those on the same data and list of test pictures."""
    pictures = lists_of(sets.test)[sets.test.split]
    same = [
        one
        for one in found
        if one.metrics
        and data_of(one.config) == data_of(config)
        and (one.config["dataset"].get("lists") or {}).get(sets.test.split) == pictures
    ]
    newest = max(same, key=lambda one: one.time, default=None)
    return newest and Figures(newest.metrics, len(sets.test), newest.path, newest.colours)
