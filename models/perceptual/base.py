"""The perceptual network: frozen features whose likeness says which pixels belong together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number, path
from datasets.batch import TrainBatch
from losses.feature import feature_loss
from utils.console import say
from utils.errors import UserError


@dataclass
class Options:
    """Keys of the node ``perceptual`` that all networks have.

    Attributes:
        network: which of its kind.
        weights: ``"none"`` (random), ``"imagenet"`` or ``"hub"`` (the published ones), ``package:NAME`` or the path or
            URL of a file.
        weights_dir: looked in before a download.
        layers: their maps are the features, each times its factor.
        scale: ``"published"``: that is all; ``"matched"``: all of them times one more factor, so that L_f of one part
            for the whole foreground is ``matched_to``.
        matched_to: the mean of L_f over images, for one part.
        matched_on: batches that the factor is measured on, the first of the run.
        factor: that factor; null: it is measured where training starts, and the run's config then has it.
    """

    name: str = MISSING
    network: str = MISSING
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    layers: dict[str, float] | None = number(above=0)
    scale: str = choice("published", "matched")
    matched_to: float = number(above=0)
    matched_on: int = number(low=1)
    factor: float | None = number(above=0)


class PerceptualNetwork(nn.Module):
    """Features, frozen and in eval mode whatever the caller does.

    Args:
        network: gives a map for each layer from normalised images.
        normalisation: of RGB images in [0, 1].
        options: of which ``layers``, in the order of the network's maps, and the scale are read.
    """

    def __init__(self, network: nn.Module, normalisation: nn.Module, options: DictConfig) -> None:
        super().__init__()
        self.network, self.normalisation, self.options = network, normalisation, options
        self.scales = [float(scale) for scale in options.layers.values()]
        if options.scale == "published" and options.factor is not None:
            raise UserError(
                f"perceptual.factor={options.factor} is for perceptual.scale=matched: give that, or "
                "perceptual.factor=null."
            )
        self.factor = options.factor if options.scale == "matched" else 1.0
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (N, C_i, h_i, w_i), one per layer, scaled, from RGB images (N, 3, H, W) in [0, 1].

        Where the factor is still to be measured it is left out.
        """
        return self.with_gradient(images)

    def with_gradient(self, images: Tensor) -> list[Tensor]:
        """The same, with the gradient to the images: for pictures that a network has drawn."""
        maps = self.network(self.normalisation(images))
        factor = self.factor or 1.0
        return [factor * scale * found for scale, found in zip(self.scales, maps, strict=True)]

    def measure(self, batches: Callable[[int], Iterable[TrainBatch]]) -> dict[str, Any]:
        """The factor of ``scale=matched``, unless it is known; see ``models.methods.base.Method.measure``.

        L_f grows with its square: of features far from their image's mean it is large, whatever they are like.

        Raises:
            UserError: all features of the foreground are alike.
        """
        if self.factor is not None:
            return {}
        total, count = 0.0, 0
        for batch in batches(self.options.matched_on):
            one_part = torch.ones_like(batch.foreground)
            total += float(feature_loss(one_part, self(batch.image.float() / 255), batch.foreground))
            count += int((batch.foreground.sum((1, 2, 3)) > 0).sum())
        if not 0 < total < float("inf"):
            raise UserError(
                f"perceptual.scale=matched: L_f of one part is {total} over the foreground of {count} pictures: no "
                "factor can match that. Give perceptual.scale=published, or look at masks and weights."
            )
        self.factor = (self.options.matched_to * count / total) ** 0.5
        say(
            f"perceptual.factor: {self.factor:.4g}, so that L_f of one part is {self.options.matched_to:g} "
            f"(perceptual.matched_to) over {count} pictures."
        )
        return {"perceptual.factor": self.factor}
