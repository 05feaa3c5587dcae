"""Figures of what a comparison shows, from the evaluations that its runs keep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datasets.lists import lists_of
from evaluation.options import Sets
from evaluation.tables.found import Baseline, Evaluation, Run, find
from evaluation.tables.rows import baseline_numbers, data_of, differences, evaluation_numbers
from utils.checkpoints import Checkpoint
from utils.console import say

SEEN = ("segmenter", "perceptual")  # networks that a baseline may see with


@dataclass(frozen=True)
class Figures:
    """Of one method.

    Attributes:
        metrics: name -> percent.
        num_pictures: that they are of.
        source: the evaluation's file; None: they were measured now.
    """

    metrics: Mapping[str, float]
    num_pictures: int
    source: Path | None = None


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

        Args:
            config: that it would be evaluated with now.
        """
        plain, folder = OmegaConf.to_container(config), checkpoint.run
        own = [
            evaluation
            for run in self._sources
            if isinstance(run, Run) and folder is not None and run.path.resolve() == folder.resolve()
            for evaluation in run.evaluations
            if evaluation.updates == checkpoint.step
            and not differences(evaluation_numbers(plain), evaluation_numbers(evaluation.config))
        ]
        return _newest([(evaluation, evaluation.figures) for evaluation in own], plain, sets)

    def of_baseline(self, name: str, num_parts: int, config: DictConfig, sets: Sets) -> Figures | None:
        """The same of a baseline that stood beside what was evaluated."""
        plain = OmegaConf.to_container(config)
        wanted = baseline_numbers(plain, name, SEEN, num_parts)
        own = [
            (source.evaluation, source.evaluation.baselines[name])
            for source in self._sources
            if isinstance(source, Baseline)
            and source.name == name
            and source.evaluation.config["seed"] == plain["seed"]
            and not differences(
                wanted, baseline_numbers(source.evaluation.config, name, SEEN, source.evaluation.num_parts)
            )
        ]
        return _newest(own, plain, sets)


def _newest(
    found: Sequence[tuple[Evaluation, Mapping[str, float]]], config: Mapping[str, Any], sets: Sets
) -> Figures | None:
    """Of those on the same data and list of test pictures."""
    pictures = lists_of(sets.test)[sets.test.split]
    same = [
        (evaluation, metrics)
        for evaluation, metrics in found
        if metrics
        and data_of(evaluation.config) == data_of(config)
        and (evaluation.config["dataset"].get("lists") or {}).get(sets.test.split) == pictures
    ]
    if not same:
        return None
    evaluation, metrics = max(same, key=lambda pair: pair[0].time)
    return Figures(metrics, len(sets.test), evaluation.path)
