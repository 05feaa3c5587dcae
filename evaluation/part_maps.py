"""The protocol for data sets with part maps: every pixel of the data set's test crop is compared."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.batch import EvalBatch
from datasets.sample import Sample
from evaluation.contingency import ContingencyTable
from evaluation.inputs import EvalDataset, EvalInput
from evaluation.palette import PALETTE
from evaluation.prediction import part_probabilities, upsample
from utils.errors import UserError

HOW_TO_COMPUTE = """\
The label maps that the figures in metrics.json are of: PNG, one file per held-out picture, pixel values are labels.

true/       0 background, 1.. the annotated parts
parts/      1..K the discovered part at every pixel, whether on the object or not
predicted/  the same on the object, 0 background elsewhere

FG-NMI and FG-ARI compare true/ with parts/ where true/ is not 0, NMI and ARI compare true/ with predicted/ everywhere:

    import numpy as np
    from pathlib import Path
    from PIL import Image
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    def labels(kind):
        return np.concatenate([np.array(Image.open(path)).ravel() for path in sorted(Path(kind).rglob("*.png"))])

    true, parts, predicted = labels("true"), labels("parts"), labels("predicted")
    on_object = true != 0
    print("FG-NMI", 100 * normalized_mutual_info_score(true[on_object], parts[on_object]))
    print("FG-ARI", 100 * adjusted_rand_score(true[on_object], parts[on_object]))
    print("NMI", 100 * normalized_mutual_info_score(true, predicted))
    print("ARI", 100 * adjusted_rand_score(true, predicted))
"""


class PartMapProtocol:
    """Scores predicted labels at every pixel.

    FG-NMI and FG-ARI are over the pixels of annotated parts, by the largest of the part scores alone, so the mask
    plays no role. NMI and ARI are over all pixels, with a background channel from the mask. The paper gives no
    details for part maps; logits are upsampled with align_corners=False as for keypoints.

    Args:
        dataset: gives ``test_crop(sample, size)`` and ``part_names``.
        num_parts: K.
        image_size: side of the test crop in pixels.
        has_background: the labeller's scores hold a background channel.
        label_maps: folder for true and predicted label maps as PNG, or None.
    """

    def __init__(
        self,
        dataset: EvalDataset,
        num_parts: int,
        *,
        image_size: int,
        has_background: bool = False,
        label_maps: Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.image_size = image_size
        self.has_background = has_background
        self.label_maps = label_maps
        self.num_true = len(dataset.part_names) + 1
        self.on_object = ContingencyTable(self.num_true, num_parts)
        self.everywhere = ContingencyTable(self.num_true, num_parts + 1)
        self.images = 0
        self.notes: list[str] = []
        if label_maps is not None:
            label_maps.mkdir(parents=True, exist_ok=True)
            (label_maps / "README.txt").write_text(HOW_TO_COMPUTE)

    def inputs(self, sample: Sample, fitted: bool) -> list[EvalInput]:
        """The test crop of a held-out sample; nothing of a training sample, since nothing is fitted.

        Raises:
            UserError: the sample has no part map, or one with labels that the data set does not name.
        """
        if fitted:
            return []
        if sample.part_map is None or sample.part_map.max() >= self.num_true:
            raise UserError(f"{sample.name} has no part map, or one with labels above {self.num_true - 1}.")
        return [crop_input(self.dataset.test_crop(sample, self.image_size))]

    def update(self, batch: EvalBatch, scores: Tensor) -> Tensor:
        """Count a batch; ``scores`` (N, K [+ 1], h', w') are those of its images.

        Returns:
            The part probabilities (N, 1 + K, h, w), background first.
        """
        scores = upsample(scores, batch.images.shape[-2:])
        probabilities = part_probabilities(scores, batch.foreground, self.has_background)
        parts = (scores[:, 1:] if self.has_background else scores).argmax(1)
        predicted = probabilities.argmax(1)
        true = torch.from_numpy(np.stack([one.part_map for one in batch.inputs])).to(scores.device)
        self.on_object.update(true[true != 0], parts[true != 0])
        self.everywhere.update(true, predicted)
        self.images += len(batch.inputs)
        if self.label_maps is not None:
            for kind, labels in (("true", true), ("parts", parts + 1), ("predicted", predicted)):
                for one, label_map in zip(batch.inputs, labels.to(torch.uint8).cpu().numpy(), strict=True):
                    _save(self.label_maps / kind / one.name, label_map)
        return probabilities

    def metrics(self) -> dict[str, float]:
        """FG-NMI, FG-ARI, NMI and ARI in percent.

        Raises:
            UserError: no pixel of the held-out crops belongs to an annotated part.
        """
        if self.on_object.total == 0:
            raise UserError("No held-out crop shows an annotated part: check the data set's split and part maps.")
        return {
            "FG-NMI": self.on_object.nmi(),
            "FG-ARI": self.on_object.ari(),
            "NMI": self.everywhere.nmi(),
            "ARI": self.everywhere.ari(),
        }

    def counts(self) -> dict[str, int]:
        """How many held-out images and pixels of annotated parts the metrics are of."""
        return {"images": self.images, "part_pixels": self.on_object.total}


def crop_input(crop: Sample) -> EvalInput:
    """A test crop as network input."""
    return EvalInput(crop.name, crop.label, crop.image, crop.foreground, part_map=crop.part_map)


def _save(path: Path, label_map: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label_map)
    # With a palette the file opens as a coloured picture, yet its pixel values are the labels.
    picture.putpalette(PALETTE.tobytes())
    picture.save(path.with_suffix(".png"))
