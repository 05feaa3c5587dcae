"""DeepCluster: features by which the clusters that k-means found in earlier features are told."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import MISSING, DictConfig
from sklearn.cluster import KMeans
from torch import Tensor, nn

from conf.fields import number
from datasets.batch import TrainBatch
from datasets.transforms.pixel_pair import PixelTransformations, pixel_pair
from losses.pseudo_labels import pseudo_label_loss
from models.initialisation import seeded_initialisation
from models.methods.clustered import Clustering, TrunkMethod
from models.segmenters.iic_features import feature_size
from utils.errors import UserError
from utils.ranks import copy_of_first, gathered, num_ranks
from utils.seeding import Randomness, generator


@dataclass
class Options(Clustering):
    """Keys of the node ``method``; but for the iterations, the published numbers are not known.

    Attributes:
        num_clusters: k, of the pseudo-labels.
        pass_steps: steps of a pass, before each of which the clusters are found anew.
        cluster_batches: batches that they are found in, those of the first steps of the pass.
        cluster_points: pixels drawn from these, at most.
        cluster_iterations: of their k-means, at most.
    """

    name: str = MISSING
    num_clusters: int = number(low=2)
    pass_steps: int = number(low=1)
    cluster_batches: int = number(low=1)
    cluster_points: int = number(low=1)
    cluster_iterations: int = number(low=1)


@dataclass
class LossWeights:
    classification: float = number(low=0)


Augmentation = PixelTransformations


@dataclass
class Views:
    """What the loss sees of one batch.

    Attributes:
        inputs: (N, C, H, W), of the network: pictures jittered and mirrored.
        labels: (N, 1, H, W) int64, each pixel's pseudo-label.
        mask: (N, 1, H, W) float, 1 where a pixel counts.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor


class Method(TrunkMethod):
    """DeepCluster (Caron et al., ECCV 2018), for pixels as IIC's author compares it.

    Before each pass k-means clusters the features, and a class layer starts anew; in the pass the network learns to say
    each pixel's cluster. That is the one whose mean is nearest to the features that the network gave before the pass,
    of which a copy is kept, of the same crop before its jitter. (The release labels another crop of each picture.)

    Args:
        predictor: the segmenter ``iic_features``.
        classes: the class layer.
        options: the node ``method``.
        augmentation: the node ``augmentation``.
        seed: of the run.
    """

    def __init__(
        self, predictor: nn.Module, classes: nn.Conv2d, options: DictConfig, augmentation: DictConfig, seed: int
    ) -> None:
        super().__init__()
        self.predictor, self.classes = predictor, classes
        self.before = deepcopy(predictor).requires_grad_(False).eval()
        self.register_buffer("means", torch.zeros(classes.out_channels, classes.in_channels))
        self.options, self.augmentation, self.seed = options, augmentation, seed

    @classmethod
    def not_recorded(cls, options: DictConfig) -> str | None:
        return "its labels come from a network that is replaced before each pass"

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        predictor = cls.new_predictor(config, config.num_parts)
        size = feature_size(config.segmenter), config.method.num_clusters
        classes = nn.Conv2d(*size, kernel_size=1, bias=False)
        return cls(predictor, classes, config.method, config.augmentation, config.seed)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.before.eval()
        return self

    @torch.no_grad()
    def before_step(self, step: int, batches: Callable[[int], Iterable[TrainBatch]]) -> list[nn.Parameter]:
        """Where a pass begins: keeps the network, clusters its features, and begins the class layer anew.

        Raises:
            UserError: fewer pixels count than there are to be clusters.
        """
        if step % self.options.pass_steps:
            return []
        self.before.load_state_dict(self.predictor.state_dict())
        copy_of_first(self.before.state_dict().values())  # batch norm's statistics may be each rank's own
        points = self._points(step, batches(self.options.cluster_batches))
        if len(points) < len(self.means):
            raise UserError(
                f"method.num_clusters={len(self.means)} need as many pixels that count, and the next "
                f"{self.options.cluster_batches} batches after step {step} have {len(points)}: check the data set's "
                "masks."
            )
        state = int(generator(self.seed, "clusters", step).integers(2**31))
        clusters = KMeans(len(self.means), n_init=1, max_iter=self.options.cluster_iterations, random_state=state)
        self.means.copy_(torch.from_numpy(clusters.fit(points).cluster_centers_))
        copy_of_first([self.means])
        with seeded_initialisation(self.seed, f"class layer of step {step}"):
            self.classes.weight.copy_(nn.init.kaiming_normal_(torch.empty(self.classes.weight.shape)))
        return [self.classes.weight]

    def _points(self, step: int, batches: Iterable[TrainBatch]) -> np.ndarray:
        """Features (P, C) of pixels that count, drawn evenly from each batch."""
        share, drawn = -(-self.options.cluster_points // self.options.cluster_batches), []
        for place, batch in enumerate(batches):
            infrared = None if batch.infrared is None else batch.infrared.float() / 255
            features = self.before(self.before.preprocess(batch.image.float() / 255, infrared))
            counted = features.permute(0, 2, 3, 1)[batch.foreground[:, 0] > 0.5]
            order = generator(self.seed, "points", step, place).permutation(len(counted))[:share]
            drawn.append(counted[torch.from_numpy(order).to(counted.device)].cpu().numpy())
        return np.concatenate(drawn)

    @torch.no_grad()
    def views(self, batch: TrainBatch, random: Randomness) -> Views:
        seen = pixel_pair(batch, self.augmentation, ["jitter", "flip"], random)
        features = self.before(self.before.preprocess(seen.image, seen.infrared))
        distances = [torch.cdist(own.flatten(1).T, self.means) for own in features]
        labels = torch.stack([own.argmin(1) for own in distances]).view_as(features[:, :1])
        inputs = self.predictor.preprocess(seen.other, seen.other_infrared)
        return Views(inputs, seen.undone(labels), seen.undone(seen.mask))  # mirroring undoes itself

    def forward(self, views: Views) -> dict[str, Tensor]:
        """Scalar ``classification``: the mean over the pixels of the whole batch that count."""
        features, size = self.predictor.features(views.inputs), views.inputs.shape[-2:]
        cells = self.classes(F.relu(features)).float()
        logits = F.interpolate(cells, size=size, mode="bilinear", align_corners=False)
        counted = gathered(views.mask.sum()[None]).sum().clamp(min=1)
        return {"classification": num_ranks() * pseudo_label_loss(logits, views.labels, views.mask) / counted}

    def trained_beside(self) -> dict[str, Tensor]:
        """And the network as it was before the pass."""
        before = {f"before.{name}": tensor for name, tensor in self.before.state_dict().items()}
        return super().trained_beside() | before
