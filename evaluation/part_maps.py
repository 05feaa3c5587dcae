"""The protocol for data sets with part maps: every pixel of the views that the data set declares is compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.batch import EvalBatch, to_device
from datasets.part_views import PartView, PartViewOptions
from datasets.sample import Sample
from evaluation.contingency import ContingencyTable
from evaluation.inputs import EvalDataset, EvalInput
from evaluation.palette import PALETTE
from evaluation.prediction import part_probabilities, upsample
from utils.errors import UserError

# What is compared: how its figures are called.
ON_PARTS, EVERYWHERE, TRUE_MASKS = "FG-{}", "{}", "{} (ground-truth mask)"

# The same for those who read the saved label maps: an explanation, and the true and predicted labels in Python.
_COMPARED = {
    ON_PARTS: ("true/ with parts/ where true/ is not 0", "true[on_parts], parts[on_parts]"),
    EVERYWHERE: ("true/ with predicted/ everywhere", "true, predicted"),
    TRUE_MASKS: ("true/ with parts/ everywhere, parts/ taken as 0 where true/ is 0", "true, parts * on_parts"),
}
_HOW_TO_COMPUTE = """\
The label maps that the figures in metrics.json are of: PNG, one file per held-out picture, pixel values are labels.

true/       0 background, 1.. the annotated parts
parts/      1..K the discovered part at every pixel, whether on the object or not
predicted/  the same on the object, 0 background elsewhere

{explanations}:

    import numpy as np
    from pathlib import Path
    from PIL import Image
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    def labels(kind):
        return np.concatenate([np.array(Image.open(path)).ravel() for path in sorted(Path(kind).rglob("*.png"))])

    true, parts, predicted = labels("true"), labels("parts"), labels("predicted")
    on_parts = true != 0
{commands}
"""


class PartMapProtocol:
    """Scores predicted labels at every pixel.

    FG-NMI and FG-ARI are over the pixels of annotated parts, by the largest of the part scores alone, so the mask
    plays no role. NMI and ARI are over all pixels, with a background channel from the mask; some data sets ask for
    them a second time with the union of the annotated parts for a mask. On which picture of a sample each is
    computed is the data set's choice (``part_views``).

    Args:
        dataset: gives ``part_views(options)`` and ``part_names``.
        num_parts: K.
        options: what the config says about the views.
        has_background: the labeller's scores hold a background channel.
        label_maps: folder for true and predicted label maps as PNG, or None; with several views, a folder of each.
    """

    def __init__(
        self,
        dataset: EvalDataset,
        num_parts: int,
        options: PartViewOptions,
        *,
        has_background: bool = False,
        label_maps: Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.views: dict[str, PartView] = {view.name: view for view in dataset.part_views(options)}
        # Predicted maps are brought to a view as the true ones, but without the labels that a bilinear resize invents.
        self.views_of_predicted = {view.name: view for view in dataset.part_views(replace(options, labels="nearest"))}
        self.has_background = has_background
        self.num_true = len(dataset.part_names) + 1
        compared = {one for view in self.views.values() for one in _compared(view)}
        self.tables = {
            one: ContingencyTable(self.num_true, num_parts if one == ON_PARTS else num_parts + 1)
            for one in _COMPARED
            if one in compared
        }
        self.images = 0
        self.notes: list[str] = []
        self.label_maps: dict[str, Path] = {}
        if label_maps is not None:
            several = len(self.views) > 1
            self.label_maps = {name: label_maps / name if several else label_maps for name in self.views}
            for name, folder in self.label_maps.items():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "README.txt").write_text(_how_to_compute(self.views[name]))

    @property
    def shown_view(self) -> str:
        """The view that a figure of examples shows."""
        return next(iter(self.views))

    def inputs(self, sample: Sample, fitted: bool, predicted: np.ndarray | None = None) -> list[EvalInput]:
        """The views of a held-out sample; nothing of a training sample, since nothing is fitted.

        Args:
            predicted: (H, W) uint8, a label map of the whole picture made elsewhere.

        Raises:
            UserError: the sample has no part map, or one with labels that the data set does not name.
        """
        if fitted:
            return []
        if sample.part_map is None or sample.part_map.max() >= self.num_true:
            raise UserError(f"{sample.name} has no part map, or one with labels above {self.num_true - 1}.")
        inputs = [sample_input(view.prepare(sample), name) for name, view in self.views.items()]
        if predicted is not None:
            for one in inputs:
                view = self.views_of_predicted[one.view]
                one.predicted = view.prepare(replace(sample, part_map=predicted)).part_map
        return inputs

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch of one view; ``scores`` (N, K [+ 1], h', w') are those of its images.

        Returns:
            The part probabilities (N, 1 + K, h, w), background first.
        """
        view = self.views[batch.inputs[0].view]
        scores = upsample(scores, batch.images.shape[-2:], view.align_corners)
        probabilities = part_probabilities(scores, batch.foreground, self.has_background)
        parts = (scores[:, 1:] if self.has_background else scores).argmax(1)
        predicted = probabilities.argmax(1)
        true = to_device(np.stack([one.part_map for one in batch.inputs]), scores.device)
        on_parts = true != 0
        if view.on_parts:
            self.tables[ON_PARTS].update(true, parts, where=on_parts)
        if view.everywhere:
            self.tables[EVERYWHERE].update(true, predicted)
        if view.true_masks:
            self.tables[TRUE_MASKS].update(true, (parts + 1) * on_parts)
        if view.name == self.shown_view:
            self.images += len(batch.inputs)
        if self.label_maps:
            for kind, labels in (("true", true), ("parts", parts + 1), ("predicted", predicted)):
                for one, label_map in zip(batch.inputs, labels.to(torch.uint8).cpu().numpy(), strict=True):
                    save_label_map(self.label_maps[view.name] / kind / one.name, label_map)
        return probabilities

    def metrics(self) -> dict[str, float]:
        """FG-NMI, FG-ARI, NMI and ARI in percent; where the data set asks for it also those with true masks.

        Raises:
            UserError: no pixel of the held-out pictures belongs to an annotated part.
        """
        if self.tables[ON_PARTS].total == 0:
            raise UserError(
                f"No held-out picture shows an annotated part; the first is {self.dataset.sample_name(0)}: check the "
                "data set's split and part maps."
            )
        return {
            name.format(index): value
            for name, table in self.tables.items()
            for index, value in (("NMI", table.nmi()), ("ARI", table.ari()))
        }

    def counts(self) -> dict[str, int]:
        """How many held-out images and pixels of annotated parts the metrics are of."""
        return {"images": self.images, "part_pixels": self.tables[ON_PARTS].total}


def sample_input(sample: Sample, view: str) -> EvalInput:
    """A sample at network size as network input."""
    return EvalInput(sample.name, sample.label, sample.image, sample.foreground, view=view, part_map=sample.part_map)


def _compared(view: PartView) -> list[str]:
    asked = {ON_PARTS: view.on_parts, EVERYWHERE: view.everywhere, TRUE_MASKS: view.true_masks}
    return [one for one, wanted in asked.items() if wanted]


def _how_to_compute(view: PartView) -> str:
    explanations, commands = [], []
    for compared in _compared(view):
        names = {index: compared.format(index) for index in ("NMI", "ARI")}
        explanation, arguments = _COMPARED[compared]
        explanations.append(f"{names['NMI']} and {names['ARI']} compare {explanation}")
        functions = {"NMI": "normalized_mutual_info_score", "ARI": "adjusted_rand_score"}
        commands += [f'    print("{names[one]}", 100 * {functions[one]}({arguments}))' for one in functions]
    return _HOW_TO_COMPUTE.format(explanations=";\n".join(explanations), commands="\n".join(commands))


def save_label_map(path: Path, label_map: np.ndarray) -> None:
    """Write (H, W) uint8 as PNG under the name ``path`` with this ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label_map)
    # With a palette the file opens as a coloured picture, yet its pixel values are the labels.
    picture.putpalette(PALETTE.tobytes())
    picture.save(path.with_suffix(".png"))
