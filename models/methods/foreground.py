"""A supervised foreground network: the segmenter with a single logit, trained on the training masks."""

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from losses import foreground_loss
from models.initialisation import seeded_initialisation
from models.segmenter import Segmenter, build_segmenter


class Foreground(nn.Module):
    """Predicts the foreground mask of a picture, for data without masks at evaluation.

    The paper evaluates with masks predicted by a supervised network, which was not released.

    Args:
        segmenter: the network that is trained; its single logit is above 0 on the object.
    """

    task = "foreground"
    loss_names = ("foreground",)

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    @classmethod
    def from_config(cls, cfg: Any) -> Self:
        """From the whole config, of which ``num_parts`` and ``perceptual`` play no role.

        Raises:
            UserError: weights cannot be had.
        """
        with seeded_initialisation(cfg.seed, "segmenter"):
            return cls(build_segmenter(cfg.segmenter, num_parts=1))

    def forward(self, views: Any) -> dict[str, Tensor]:
        """The unweighted loss of a batch of views.

        Args:
            views: has ``jittered``, ``jittered_to_warp`` (N, 3, H, W) RGB in [0, 1], the last unwarped; ``foreground``
                (N, 1, H, W); ``grid`` (N, H, W, 2).

        Returns:
            Scalar ``foreground``: the mean over both views. The warped one teaches other sizes and angles.
        """
        warped_view = F.grid_sample(self.segmenter.preprocess(views.jittered_to_warp), views.grid, align_corners=True)
        warped_foreground = F.grid_sample(views.foreground, views.grid, align_corners=True)
        loss = self._loss(self.segmenter.preprocess(views.jittered), views.foreground)
        return {"foreground": (loss + self._loss(warped_view, warped_foreground)) / 2}

    def _loss(self, inputs: Tensor, foreground: Tensor) -> Tensor:
        logits = self.segmenter(inputs).float()
        return foreground_loss(
            F.interpolate(logits, size=inputs.shape[-2:], mode="bilinear", align_corners=True), foreground
        )

    def parameter_groups(self, lr: float, head_multiplier: float) -> list[dict[str, Any]]:
        """What the optimiser trains: the segmenter's groups."""
        return self.segmenter.parameter_groups(lr, head_multiplier)
