"""One pass over the images: inputs from the loader's workers, scores from the labeller, numbers from the protocols."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from conf.modules import module
from datasets.base import Source
from datasets.batch import EvalBatch
from datasets.files import require_files
from datasets.masks import VOID_PREDICTED, void_of
from datasets.sample import VOID, Remark, Remarks
from evaluation.examples import Comparison, Example
from evaluation.inputs import EvalInput, batches_of_equal_shape
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions, Sets
from evaluation.prediction import largest
from evaluation.protocols import crops, truth_free
from evaluation.protocols.base import Protocol
from utils import workers
from utils.console import tracked
from utils.errors import UserError
from utils.memory import Halving


@dataclass
class Result:
    """What one evaluation gives.

    Attributes:
        metrics: name -> percent.
        counts: what the metrics are of: images, training_images, keypoints, part_pixels.
        notes: which metrics are left out and why.
        pictures: held-out examples, for ``evaluation.report.part_picture``.
        batch_size: the most inputs that went through the labeller at once.
        comparisons: what the figures are computed from, one of each kind of annotation.
        parts: for each part its share, presence and so on, in percent, where figures that need no truth were asked for.
        colours: (1 + K,) int, for each label the one whose colour it has wherever it is shown: that of what it matches,
            as far as the first protocol knows, else its own.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    notes: list[str]
    pictures: list[Example]
    batch_size: int
    comparisons: list[Comparison] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    colours: np.ndarray = field(default_factory=lambda: np.zeros(1, int))


class Observer(Interface):
    """Whoever wants to be told of every held-out picture, as the first protocol shows it."""

    def restart(self) -> None:
        """Forget all: the pass begins, or begins again with smaller batches where memory did not suffice."""
        ...

    def update(self, protocol: Protocol, batch: EvalBatch, probabilities: Tensor) -> None:
        """Take a batch of inputs, some of which may be of the training split, with (N, 1 + K, h, w) of them."""
        ...


def evaluate(
    labeller: Labeller,
    sets: Sets,
    protocols: Sequence[str],
    options: EvaluationOptions,
    device: torch.device | str,
    observer: Observer | None = None,
) -> Result:
    """Score a labeller by every one of the protocols that the data set's annotation allows.

    Each file is decoded once, in the workers, and each network input goes through the labeller once. (A labeller or a
    protocol that has to be fitted reads the training crops once before.) Where no protocol fits the annotation, the
    result is pictures, and a note that says so. The figures do not depend on ``num_workers``; ``batch_size`` changes
    them by rounding only, and where memory does not suffice for it, all begins anew with half of it.

    Args:
        labeller: on ``device``.
        protocols: modules of ``evaluation.protocols``, in the table's order; the pictures are of the first that fits.
        observer: is told of them; figures do not depend on it.

    Raises:
        UserError: a file cannot be read, there is nothing to fit, two figures have one name, or memory does not suffice
            for one input at a time.
    """
    device = torch.device(device)
    lower = f"evaluation.size ({options.size} now) or image_size ({options.image_size} now)"

    def attempt(batch_size: int) -> Result:
        if observer:
            observer.restart()
        return _evaluated(labeller, sets, protocols, replace(options, batch_size=batch_size), device, observer)

    return Halving(options.batch_size, lower, device).attempt(attempt)


@torch.inference_mode()
def _evaluated(
    labeller: Labeller,
    sets: Sets,
    protocols: Sequence[str],
    options: EvaluationOptions,
    device: torch.device,
    observer: Observer | None,
) -> Result:
    chosen = chosen_protocols(labeller, sets.test, protocols, options)
    names = figure_names(chosen)
    skipped: dict[int, str] = {}
    fit(labeller, sets, options, device, skipped)
    for protocol in chosen:
        if protocol.needs_fit:
            protocol.fit(_to_fit(_fitted(sets, [protocol], labeller), options, device, skipped))
    remarks = Remarks()
    pictures = score(labeller, sets, chosen, options, device, skipped, remarks, observer)

    result = Result({}, {}, [], [], options.batch_size)
    for protocol in chosen:
        result.metrics |= {names[protocol.name, metric]: value for metric, value in protocol.metrics().items()}
        result.counts |= protocol.counts()
        result.notes += protocol.notes
        if (comparison := protocol.comparison()) is not None:
            result.comparisons.append(comparison)
        result.parts += protocol.per_part()
    result.notes += [*labeller.notes, *remarks.lines()]
    if skipped:
        result.notes.append(
            f"{len(skipped):,} of {len(sets.fit):,} training pictures are skipped in what is fitted. The first: "
            f"{skipped[min(skipped)]}"
        )
    recolouring = chosen[0].recolouring()
    result.pictures = [replace(example, recolouring=recolouring) for example in pictures]
    own = np.arange(labeller.largest_label + 1)
    result.colours = own if recolouring is None else recolouring[own]
    return result


def fit(
    labeller: Labeller, sets: Sets, options: EvaluationOptions, device: torch.device, skipped: dict[int, str]
) -> None:
    """Fit a labeller that needs it on the test crops of the training pictures.

    Args:
        skipped: what is wrong with each picture that is left out, by its place, is added.

    Raises:
        UserError: a file cannot be read, or nothing can be learnt from them.
    """
    if not labeller.needs_fit:
        return
    to_fit: Dataset = _fitted(sets, [crops.Protocol(sets.fit, labeller, options)], labeller)
    if labeller.num_fitted is not None and labeller.num_fitted < len(sets.fit):
        to_fit = Subset(to_fit, spread(labeller.num_fitted, len(sets.fit)))
    labeller.fit(_to_fit(to_fit, options, device, skipped))


def chosen_protocols(
    labeller: Labeller, dataset: Source, protocols: Sequence[str], options: EvaluationOptions
) -> list[Protocol]:
    """Those that the annotation allows; where it allows none, or on request, the one that needs none.

    Raises:
        UserError: the labeller cannot be scored by one of them.
    """
    classes = [module("protocol", name).Protocol for name in protocols]
    found = [made for protocol in classes if (made := protocol.of(dataset, labeller, options)) is not None]
    if found and not options.truth_free:
        return found
    without = truth_free.Protocol(dataset, labeller, options)
    if not found:
        lacking = dict.fromkeys(protocol.annotation for protocol in classes)
        without.notes = [
            f"{dataset.name} has no {' and no '.join(lacking)}: these figures are of what was found alone, and "
            "docs/evaluation.md says what they mean."
        ]
    return [*found, without]


def look_for_training_pictures(
    labeller: Labeller, sets: Sets, protocols: Sequence[str], options: EvaluationOptions
) -> None:
    """Look for the training pictures that an evaluation is to read, before anything is read; it may read none.

    Raises:
        UserError: something is to be fitted on training pictures, and there are none; or files of them are missing.
    """
    chosen = chosen_protocols(labeller, sets.test, protocols, options)
    fitted = [labeller.title] * labeller.needs_fit + [protocol.name for protocol in chosen if protocol.needs_fit]
    if fitted and sets.fit is None:
        raise UserError(
            f"{fitted[0]} is fitted on training pictures, and {sets.test.name} has none: leave it out, or hold out "
            "fewer pictures."
        )
    wanted = labeller.knows_training_pictures and any(protocol.fits for protocol in chosen)
    if (fitted or wanted) and sets.fit is not None and sets.on_error == "raise":
        require_files(sets.fit)


def figure_names(protocols: Sequence[Protocol]) -> dict[tuple[str, str], str]:
    """For each protocol and figure the name under which it is reported: its own, if it need not give way to another.

    Raises:
        UserError: two protocols have a figure of one name, and neither gives way.
    """
    names, keepers = {}, {}
    for protocol in protocols:
        for metric in protocol.metric_names:
            sharing = {other.name for other in protocols if metric in other.metric_names}
            if sharing & set(protocol.gives_way_to):
                names[protocol.name, metric] = protocol.renamed(metric)
            elif metric in keepers:
                raise UserError(
                    f"The protocols {keepers[metric]} and {protocol.name} both have a figure {metric!r}: name the "
                    "other in one's gives_way_to."
                )
            else:
                names[protocol.name, metric], keepers[metric] = metric, protocol.name
    return names


def score(
    labeller: Labeller,
    sets: Sets,
    protocols: Sequence[Protocol],
    options: EvaluationOptions,
    device: torch.device,
    skipped: dict[int, str],
    remarks: Remarks,
    observer: Observer | None = None,
) -> list[Example]:
    """Show the labeller all inputs, tell each protocol what it found in its own, and keep examples of the first.

    Args:
        skipped: what is wrong with each training picture that is left out, by its place, is added.
        remarks: those of the held-out pictures' files are added.
    """
    places = set(spread(options.num_pictures, len(sets.test)))
    by_name, pictured = {protocol.name: protocol for protocol in protocols}, protocols[0]
    pictures: list[tuple[EvalInput, Tensor]] = []
    for name, batch in _batches(inputs_of(labeller, sets, protocols), "evaluating", options, device, skipped):
        protocol = by_name[name]
        seen = labeller.features_of(batch) if protocol.of_features else labeller.scores_of(batch)
        probabilities = protocol.update(batch, seen)
        remarks.add(remark for shown in batch.inputs if not shown.fitted for remark in shown.remarks)
        if observer and name == pictured.name and batch.inputs[0].view == pictured.shown_view:
            observer.update(protocol, batch, probabilities)
        for shown, probability in zip(batch.inputs, probabilities, strict=True):
            wanted = name == pictured.name and shown.view == pictured.shown_view
            if wanted and not shown.fitted and shown.place in places:
                pictures.append((shown, largest(probability[None])[0].to(torch.uint8)))
    pictures.sort(key=lambda found: found[0].place)
    return [Example(shown, found.cpu().numpy() * shown.counted, pictured.known(shown)) for shown, found in pictures]


def inputs_of(labeller: Labeller, sets: Sets, protocols: Sequence[Protocol]) -> Dataset:
    """All that the labeller is shown: each held-out sample, and each training sample that a protocol wants."""
    splits: list[Dataset] = [_Inputs(sets.test, protocols, labeller)]
    fitting = [protocol for protocol in protocols if protocol.fits]
    if fitting and sets.fit is not None and labeller.knows_training_pictures:
        splits.append(_fitted(sets, fitting, labeller))
    return ConcatDataset(splits)


def read(inputs: Dataset, options: EvaluationOptions) -> DataLoader:
    """The inputs of one sample after the other, as workers have made them of its files."""
    return workers.loader(inputs, num_workers=options.num_workers, batch_size=None)


def spread(count: int, length: int) -> list[int]:
    """``count`` places spread evenly over ``length``; the same one several times where there are fewer."""
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


@dataclass
class _Skipped:
    """In the place of a training picture's inputs: its place, and what is wrong with it."""

    place: int
    message: str


@dataclass
class _Inputs(Dataset):
    """Each sample of a split as the inputs of all protocols, in the worker that decodes its files."""

    dataset: Source
    protocols: Sequence[Protocol]
    labeller: Labeller
    fitted: bool = False
    on_error: Literal["raise", "skip"] = "raise"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[tuple[str, EvalInput]] | _Skipped:
        try:
            return self._inputs(index)
        except UserError as error:
            if self.on_error == "raise":
                raise
            return _Skipped(index, str(error))

    def _inputs(self, index: int) -> list[tuple[str, EvalInput]]:
        sample = self.dataset[index]
        predicted, remarks = self.labeller.label_map(sample), sample.remarks
        if (void := void_of(predicted, VOID)) is not None:
            remarks += (Remark(VOID_PREDICTED, sample.path, int(void.sum())),)
        return [
            (protocol.name, replace(shown, fitted=self.fitted, place=index, remarks=remarks))
            for protocol in self.protocols
            for shown in protocol.inputs(sample, self.fitted, predicted)
        ]


def _fitted(sets: Sets, protocols: Sequence[Protocol], labeller: Labeller) -> _Inputs:
    return _Inputs(sets.fit, protocols, labeller, fitted=True, on_error=sets.on_error)


def _to_fit(
    inputs: Dataset, options: EvaluationOptions, device: torch.device, skipped: dict[int, str]
) -> Iterator[EvalBatch]:
    """Batches to fit on; UserError where none of the pictures can be read."""
    own: dict[int, str] = {}
    for _, batch in _batches(inputs, "fitting", options, device, own):
        yield batch
    if own and len(own) == len(inputs):
        raise UserError(
            f"No training picture can be read, and there is nothing to fit on. The first one: {own[min(own)]}"
        )
    skipped |= own


def _batches(
    inputs: Dataset, doing: str, options: EvaluationOptions, device: torch.device, skipped: dict[int, str]
) -> Iterator[tuple[str, EvalBatch]]:
    """Batches of inputs of one size, each with its protocol's name; what is skipped is noted."""
    found = _kept(tracked(read(inputs, options), doing), skipped)
    return batches_of_equal_shape(found, options.batch_size, device)


def _kept(
    read: Iterable[list[tuple[str, EvalInput]] | _Skipped], skipped: dict[int, str]
) -> Iterator[tuple[str, EvalInput]]:
    for found in read:
        if isinstance(found, _Skipped):
            skipped[found.place] = found.message
        else:
            yield from found
