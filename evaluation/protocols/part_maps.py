"""The protocol for data sets with part maps: every pixel of the views that the data set declares is compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from datasets.base import Source
from datasets.batch import EvalBatch, to_device
from datasets.part_views import PartView
from datasets.sample import VOID, Sample
from evaluation.contingency import ContingencyTable, ari, nmi
from evaluation.examples import Comparison, Known
from evaluation.inputs import EvalInput, prepared
from evaluation.labellers.base import Labeller
from evaluation.matching import matched_accuracy, recolouring
from evaluation.options import EvaluationOptions
from evaluation.palette import save_label_map
from evaluation.prediction import largest, part_probabilities, part_scores, upsample
from evaluation.protocols import base
from utils.errors import UserError
from utils.transfers import Behind

INDICES = {"NMI": nmi, "ARI": ari}
# What is compared: how its figures are called, and the true and predicted labels for readers of the saved label maps.
ON_PARTS, EVERYWHERE, TRUE_MASKS = "FG-{}", "{}", "{} (ground-truth mask)"
_IN_PYTHON = {
    ON_PARTS: "true[on_parts], parts[on_parts]",
    EVERYWHERE: "true, predicted",
    TRUE_MASKS: "true, parts * on_parts",
}
_README = """\
The label maps that the figures in metrics.json are of: PNG, one file per held-out picture, pixel values are labels.

true/       0 background, 1.. the annotated parts
parts/      1..K the discovered part at every pixel, whether on the object or not
predicted/  the same on the object, 0 background elsewhere

    import numpy as np
    from pathlib import Path
    from PIL import Image
    from sklearn.metrics import adjusted_rand_score as ari, normalized_mutual_info_score as nmi

    def labels(kind):
        return np.concatenate([np.array(Image.open(path)).ravel() for path in sorted(Path(kind).rglob("*.png"))])

    true, parts, predicted = labels("true"), labels("parts"), labels("predicted")
"""
_README_VOID = """\
    known = true != 255  # the others are void
    true, parts, predicted = true[known], parts[known], predicted[known]
"""
_README_PARTS = """\
    on_parts = true != 0
"""


class Protocol(base.Protocol):
    """Scores predicted labels at every pixel.

    FG-NMI and FG-ARI are over the pixels of annotated parts, by the largest of the part scores alone, so the mask
    plays no role. NMI and ARI are over all pixels, with a background channel from the mask; some data sets ask for
    them a second time with the union of the annotated parts for a mask. On which picture of a sample each is
    computed is the data set's choice (``part_views``). Where label maps are kept, several views have a folder each, and
    all are there once ``metrics`` was called. Where there are no masks, figures that take the background from them are
    left out.
    """

    name = "part_maps"
    annotation = "part maps"
    agreement_is = "of the pixels of true parts, those in the part that matches best over all pictures"

    def __init__(self, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> None:
        super().__init__(dataset, labeller, options)
        self.has_void = False
        self._behind = Behind(self._save)
        self.views = {view.name: view for view in dataset.part_views(options)}
        self.shown_view = next(iter(self.views))
        self.num_true = len(dataset.part_names) + 1
        asked_for = {compared for view in self.views.values() for compared in _compared(view)}
        if EVERYWHERE in asked_for and not (dataset.has_masks or labeller.has_background):
            asked_for.remove(EVERYWHERE)
            self.notes = [f"{index} is left out: {base.WITHOUT_MASKS}." for index in INDICES]
        self.tables = {
            compared: ContingencyTable(self.num_true, labeller.num_parts + (compared != ON_PARTS))
            for compared in _IN_PYTHON
            if compared in asked_for
        }
        self.metric_names = [compared.format(index) for compared in self.tables for index in INDICES]

    @classmethod
    def of(cls, dataset: Source, labeller: Labeller, options: EvaluationOptions) -> Self | None:
        return None if dataset.part_names is None else cls(dataset, labeller, options)

    def inputs(self, sample: Sample, fitted: bool = False, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The views of a sample.

        Raises:
            UserError: the sample has no part map, or one with labels that the data set does not name.
        """
        if sample.part_map is None or sample.part_map.max() >= self.num_true:
            raise UserError(f"{sample.name} has no part map, or one with labels above {self.num_true - 1}.")
        return [prepared(sample, name, view.prepare, predicted) for name, view in self.views.items()]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        view, has_background = self.views[batch.inputs[0].view], self.labeller.has_background
        scores = upsample(scores, batch.images.shape[-2:], view.align_corners)
        probabilities = part_probabilities(scores, batch.foreground, has_background)
        parts, predicted = largest(part_scores(scores, has_background)), largest(probabilities)
        true = to_device(np.stack([shown.part_map for shown in batch.inputs]), scores.device)
        on_parts = true != 0
        counted = None if batch.counted is None else batch.counted[:, 0]
        pairs = {
            ON_PARTS: (true, parts, on_parts if counted is None else on_parts & counted),
            EVERYWHERE: (true, predicted, counted),
            TRUE_MASKS: (true, (parts + 1) * on_parts, counted),
        }
        for compared in self._compared(view):
            self.tables[compared].update(*pairs[compared])
        if self.options.label_maps:
            self._behind.add([(parts + 1).to(torch.uint8), predicted.to(torch.uint8)], batch.inputs)
        return probabilities

    def _save(self, parts: np.ndarray, predicted: np.ndarray, inputs: Sequence[EvalInput]) -> None:
        for shown, own_parts, own_predicted in zip(inputs, parts, predicted, strict=True):
            true = np.where(shown.counted, shown.part_map, np.uint8(VOID))
            self.has_void |= shown.void is not None
            for kind, labels in (("true", true), ("parts", own_parts), ("predicted", own_predicted)):
                save_label_map(self._folder(self.views[shown.view]) / kind / shown.name, labels)

    def metrics(self) -> dict[str, float]:
        """FG-NMI, FG-ARI, NMI and ARI in percent; where the data set asks for it also those with true masks.

        Where label maps are kept, a README beside them gets the commands that compute the figures again.

        Raises:
            UserError: no pixel of the held-out pictures belongs to an annotated part.
        """
        self._behind.finish()
        if self.tables[ON_PARTS].total == 0:
            raise UserError(
                f"No held-out picture shows an annotated part; the first is {self.dataset.sample_name(0)}: check the "
                "data set's split and part maps."
            )
        if self.options.label_maps:
            for view in self.views.values():
                commands = [
                    f'    print("{compared.format(index)}", 100 * {index.lower()}({_IN_PYTHON[compared]}))\n'
                    for compared in self._compared(view)
                    for index in INDICES
                ]
                readme = _README + _README_VOID * self.has_void + _README_PARTS
                (self._folder(view) / "README.txt").write_text(readme + "".join(commands))
        return {
            compared.format(index): function(table.counts)
            for compared, table in self.tables.items()
            for index, function in INDICES.items()
        }

    def counts(self) -> dict[str, int]:
        """How many held-out images and pixels of annotated parts the metrics are of."""
        return {"images": len(self.dataset), "part_pixels": self.tables[ON_PARTS].total}

    def known(self, shown: EvalInput) -> Known:
        """The true parts."""
        return Known("true parts", shown.image, labels=shown.part_map)

    def recolouring(self) -> np.ndarray:
        """The true part that each matches over all pictures, one to one; those without one have colours that follow."""
        counts = self.tables[ON_PARTS].counts[1:]
        return recolouring(matched_accuracy(counts, many_to_one=False)[1], len(counts))

    def comparison(self) -> Comparison:
        """The true parts; where the data set compares with background, the parts on it."""
        table = self.tables.get(EVERYWHERE)
        counts = self.tables[ON_PARTS].counts[1:] if table is None else table.counts[1:]
        if table is None:
            counts = np.pad(counts, [(0, 0), (1, 0)])
        return Comparison("true part", self.dataset.part_names, counts, "pixels")

    def compared(self, shown: EvalInput, predicted: np.ndarray) -> np.ndarray:
        true, found = shown.part_map[shown.counted], predicted[shown.counted]
        return base.met(true, found, (self.num_true, self.labeller.num_parts + 1))[1:]

    def _compared(self, view: PartView) -> list[str]:
        return [compared for compared in _compared(view) if compared in self.tables]

    def _folder(self, view: PartView) -> Path:
        return self.options.label_maps / view.name if len(self.views) > 1 else self.options.label_maps


def _compared(view: PartView) -> list[str]:
    asked = {ON_PARTS: view.on_parts, EVERYWHERE: view.everywhere, TRUE_MASKS: view.true_masks}
    return [compared for compared, wanted in asked.items() if wanted]
