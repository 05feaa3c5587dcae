"""The paper's method: one segmenter, frozen perceptual features, four losses."""

from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from losses import (
    contrastive_loss,
    draw_positives,
    equivariance_loss,
    feature_loss,
    part_descriptors,
    visual_consistency_loss,
)
from models.initialisation import seeded_initialisation
from models.perceptual import PerceptualNetwork
from models.segmenter import Segmenter, build_segmenter
from utils.errors import UserError
from utils.ranks import gathered, num_ranks
from utils.seeding import generator


class ContrastiveReconstruction(nn.Module):
    """Unsupervised part discovery from contrastive reconstruction (Choudhury et al., NeurIPS 2021).

    Args:
        segmenter: the network that is trained.
        perceptual: the frozen network that gives the features.
        config: the node ``method``: ``temperature``, ``negatives`` (``all_images`` or ``other_images``), ``positives``
            (``uniform`` or ``release``), ``equivariance`` (``release`` or ``paper``); see ``losses``.
        seed: the run's seed; positives are a function of it and of the step.
    """

    task = "parts"
    loss_names = ("feature", "contrastive", "visual", "equivariance")

    def __init__(self, segmenter: Segmenter, perceptual: PerceptualNetwork, config: Any, seed: int) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.perceptual = perceptual
        self.config = config
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: Any) -> Self:
        """From the whole config.

        Raises:
            UserError: the batch is too small for the draw of positives, or weights cannot be had.
        """
        try:
            # No rule asks for more than 3 images, and a batch that no memory holds is for the data set to refuse.
            draw_positives(min(cfg.batch_size, 3), 1, generator(cfg.seed, "check"), cfg.method.positives)
        except ValueError as error:
            values = f"batch_size={cfg.batch_size}, method.positives={cfg.method.positives}"
            raise UserError(f"{values}: {error}.") from error
        with seeded_initialisation(cfg.seed, "segmenter"):
            segmenter = build_segmenter(cfg.segmenter, cfg.num_parts)
        with seeded_initialisation(cfg.seed, "perceptual network"):
            perceptual = PerceptualNetwork(cfg.perceptual)
        return cls(segmenter, perceptual, cfg.method, cfg.seed)

    def forward(self, views: Any) -> dict[str, Tensor]:
        """The four losses, unweighted, of a batch of views.

        Where several devices share a batch, their mean over the devices is the loss of the whole batch, and so are
        their gradients.

        Args:
            views: has ``image``, ``jittered``, ``jittered_to_warp`` (N, 3, H, W) RGB in [0, 1], the last unwarped;
                ``lab`` (N, 3, H, W) of the clean image; ``foreground`` (N, 1, H, W); ``grid`` (N, H, W, 2); ``step``.

        Returns:
            Scalars ``feature``, ``contrastive``, ``visual``, ``equivariance``.
        """
        rng = generator(self.seed, "positives", views.step)
        return self.losses(
            view=self.segmenter.preprocess(views.jittered),
            view_to_warp=self.segmenter.preprocess(views.jittered_to_warp),
            features=self.perceptual(views.image),
            lab=views.lab,
            foreground=views.foreground,
            grid=views.grid,
            positives=draw_positives(
                num_ranks() * len(views.image), self.segmenter.num_parts, rng, self.config.positives
            ),
        )

    def losses(
        self,
        view: Tensor,
        view_to_warp: Tensor,
        features: list[Tensor],
        lab: Tensor,
        foreground: Tensor,
        grid: Tensor,
        positives: Tensor,
    ) -> dict[str, Tensor]:
        """As :meth:`forward`, with the views preprocessed and features and positives (of the whole batch) given."""
        # Zeros outside the image are the mean colour only after preprocessing.
        warped_view = F.grid_sample(view_to_warp, grid, align_corners=True)
        # Two passes, not one of twice the batch: batch norm sees one view at a time.
        logits = self._full_size_logits(view)
        logits_of_warped_view = self._full_size_logits(warped_view)

        part_masks = logits.softmax(1)
        # Every image of the whole batch is compared with every other, whichever device it is on.
        descriptors = gathered(part_descriptors(part_masks, features, foreground))
        return {
            # A sum over images, of which the mean over devices would leave a share.
            "feature": num_ranks() * feature_loss(part_masks, features, foreground),
            "contrastive": contrastive_loss(
                descriptors, self.config.temperature, positives, negatives=self.config.negatives
            ),
            "visual": visual_consistency_loss(part_masks, lab, foreground),
            "equivariance": equivariance_loss(
                logits, logits_of_warped_view, grid, foreground, formula=self.config.equivariance
            ),
        }

    def parameter_groups(self, lr: float, head_multiplier: float) -> list[dict[str, Any]]:
        """What the optimiser trains: the segmenter's groups."""
        return self.segmenter.parameter_groups(lr, head_multiplier)

    def _full_size_logits(self, inputs: Tensor) -> Tensor:
        logits = self.segmenter(inputs).float()
        return F.interpolate(logits, size=inputs.shape[-2:], mode="bilinear", align_corners=True)
