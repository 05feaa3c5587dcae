"""What training tells of itself while it runs: figures on the held-out pictures, and pictures of what is found."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from omegaconf import DictConfig

from datasets.batch import EvalBatch, TrainBatch
from evaluation.examples import Example, Known
from evaluation.inputs import EvalInput
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions, Sets
from evaluation.prediction import largest, part_probabilities, upsample
from evaluation.report import held_out_picture, noun_of, part_picture, print_table
from evaluation.run import evaluate, look_for_training_pictures
from utils.devices import of_any_shape
from utils.logging import RunLogger
from utils.signals import Signals


class Progress:
    """None of what it tells chooses anything.

    In all its pictures a part has the colour of its number, so that they agree over the steps and with each other, and
    what is known that of the part which matches it; ``evaluate.py`` paints parts like what they match, which changes
    from one evaluation to the next.

    Args:
        config: the whole config.
        labeller: of what is trained.
        protocols: that the method is evaluated by.
        first: gives the crops of the run's first step, which its pictures show all along, however often it goes on.

    Raises:
        UserError: the labeller cannot be scored by one of these, or there is nothing to fit it on.
    """

    def __init__(
        self,
        config: DictConfig,
        labeller: Labeller,
        sets: Sets,
        protocols: Sequence[str],
        device: torch.device,
        first: Callable[[], TrainBatch],
    ) -> None:
        self.labeller, self.sets, self.protocols, self.device = labeller, sets, protocols, device
        self.options = EvaluationOptions.of(config)
        look_for_training_pictures(labeller, sets, protocols, self.options)  # what cannot be scored is not trained
        self._noted: set[str] = set()
        self._first, self._shown = first, None
        self.found = "foreground" if labeller.gives_masks else "parts"
        self.num_steps = config.num_steps
        self.collapse = {"share": config.logging.collapse_share, "checks": config.logging.collapse_checks}

    def evaluate(self, step: int, logger: RunLogger, signals: Signals) -> None:
        """Figures and pictures of the held-out split; nothing where a signal to end comes before they are there."""
        with of_any_shape():
            result = signals.until_stopped(
                lambda: evaluate(self.labeller, self.sets, self.protocols, self.options, self.device)
            )
        if result is None:
            return  # the resumed run makes up for it
        self.options = replace(self.options, batch_size=result.batch_size)
        logger.log_evaluation(step, result.metrics)
        if result.pictures:
            lasting = not self.labeller.needs_fit  # clusters that are fitted anew each time have no number that lasts
            noun = noun_of(self.labeller, self.sets.test)
            picture, rows = held_out_picture(result, self.labeller, noun, by_number=lasting)
            logger.log_pictures(step, {f"held_out_{self.found}": picture})
            logger.log_test_pictures(step, rows)
        for note in result.notes:
            if note not in self._noted:
                logger.say(note)
        self._noted |= set(result.notes)
        if result.metrics:
            print_table({f"after {step} steps": result.metrics})

    def show(self, batch: TrainBatch, step: int, logger: RunLogger) -> None:
        """What is found in the first step's crops, and how much of them each part holds.

        A warning where in the crops of this step one part is alone, the same one several times in a row.
        """
        if self.labeller.needs_fit:
            return  # it is fitted by an evaluation, which has pictures of its own
        if self._shown is None:
            self._shown = self._first()
        with of_any_shape():
            found, now = examples(self.labeller, self._shown), examples(self.labeller, batch)
        logger.log_pictures(step, {f"training_{self.found}": part_picture(found, self.labeller.caption)})
        if self.labeller.num_parts > 1:
            logger.log_part_areas(step, part_areas(found, self.labeller.num_parts))
            part, held = largest_part(now)
            looks = logger.log_largest_part(step, part, held)
            # In the first tenth of the steps parts are still on their way apart.
            settled = [(part, held) for at, part, held in looks if 10 * at >= self.num_steps]
            if collapsed(settled, **self.collapse):
                logger.warn(
                    "collapsed solution",
                    f"part {part} holds {100 * held:.1f} % of the foreground, in the last {self.collapse['checks']} "
                    "pictures of the training too. Try another seed, a lower optimizer.lr, or other loss_weights: a "
                    "higher one of what keeps parts apart.",
                )


@torch.inference_mode()
def examples(labeller: Labeller, batch: TrainBatch) -> list[Example]:
    """Training crops with what the labeller finds in them."""
    shown = EvalBatch(batch.image, batch.foreground, [], infrared=batch.infrared)
    scores = upsample(labeller.scores_of(shown), batch.image.shape[-2:])
    foreground = batch.foreground.to(scores.device)
    predicted = largest(part_probabilities(scores, foreground, labeller.has_background)).byte().cpu().numpy()
    images, masks = batch.image.permute(0, 2, 3, 1).cpu().numpy(), batch.foreground[:, 0].byte().cpu().numpy()
    return [
        Example(EvalInput(name, None, image, mask), labels, Known("foreground", image * mask[..., None]))
        for name, image, mask, labels in zip(batch.names, images, masks, predicted, strict=True)
    ]


def largest_part(examples: Sequence[Example]) -> tuple[int, float]:
    """The part, from 1, that holds most of the foreground of all examples, and its share of that; 0 of none."""
    counts = np.bincount(np.concatenate([example.predicted.ravel() for example in examples]), minlength=2)[1:]
    return int(counts.argmax()) + 1, float(counts.max() / max(counts.sum(), 1))


def part_areas(examples: Sequence[Example], num_parts: int) -> list[float]:
    """The share of the foreground of all examples that each part holds; 0 of none."""
    counts = np.bincount(np.concatenate([example.predicted.ravel() for example in examples]), minlength=num_parts + 1)
    return (counts[1:] / max(counts[1:].sum(), 1)).tolist()


def collapsed(looks: Sequence[tuple[int, float]], share: float, checks: int) -> bool:
    """Whether with the last of several looks one part has been alone so many times in a row, for the first time.

    Args:
        looks: the largest part, and the share of the foreground that it has.
        share: above which a part is alone on it.
        checks: how many in a row.
    """
    rows = [looks[end - checks : end] for end in range(checks, len(looks) + 1)]
    alone = [len({part for part, _ in row}) == 1 and all(held > share for _, held in row) for row in rows]
    return bool(alone) and alone[-1] and not any(alone[:-1])
