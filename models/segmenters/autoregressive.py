"""The autoregressive network of AC and ARL (Ouali et al., ECCV 2020), from scratch; see ``models.autoregressive``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import choice, number, path, probability
from models.autoregressive import AutoregressiveNetwork, require_memory, require_orderings
from models.channels import Channels, network_input, num_channels
from models.inputs import require_pictures
from models.segmenters.base import num_parts_of, with_weights
from utils.errors import UserError

HEAD = "network.decoder."


@dataclass
class Options(Channels):
    """Keys of the node ``segmenter``.

    Attributes:
        weights: ``"none"`` (random), or the path or URL of a file; the path of a run of this project starts from that
            one's segmenter, head included where K is the same.
        weights_dir: of downloads.
        stem, ordinary, widths, stride, attention_after, attention_width, dropout, initialisation: see
            ``models.autoregressive.AutoregressiveNetwork``; the first three say which of the forms F1 to F5 it is.
        orderings: O, that training draws from: 1 to 8 are raster scans, 9 to 16 zigzags.
        inference: ``plain``, without an ordering (paper), or ``mean``: the mean of the scores with each of O.
    """

    name: str = MISSING
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    stem: str = choice("none", "convolution", "resnet18")
    ordinary: int = number(low=0)
    widths: list[int] = number(low=1)
    stride: int = number(low=1)
    attention_after: int | None = number(low=1)
    attention_width: int = number(low=1)
    dropout: float = probability()
    initialisation: str = choice("scaled", "xavier")
    orderings: list[int] = MISSING
    inference: str = choice("plain", "mean")


class Segmenter(nn.Module):
    """Scores of clusters from images, as fine as they are.

    Args:
        options: the node ``segmenter``.
        num_parts: K, the clusters; of ARL, the size of the features.
        has_background: one channel more, the first, is the background's.
    """

    def __init__(self, options: DictConfig, num_parts: int, has_background: bool = False) -> None:
        super().__init__()
        if not options.orderings:
            raise UserError("segmenter.orderings is empty: give some of 1 to 8 (raster scans) and 9 to 16 (zigzags).")
        require_orderings(options.orderings, "segmenter.orderings")
        self.num_parts, self.has_background, self.options = num_parts, has_background, options
        self.network = AutoregressiveNetwork(
            num_channels(options),
            num_parts + has_background,
            stem=options.stem,
            ordinary=options.ordinary,
            widths=options.widths,
            stride=options.stride,
            attention_after=options.attention_after,
            attention_width=options.attention_width,
            dropout=options.dropout,
            initialisation=options.initialisation,
        )

    def require_memory(self, image_size: int, device: torch.device) -> None:
        """Raises UserError if a device has not the memory that a training step's attention takes in square pictures."""
        if self.network.masked.attention is not None:
            cells = -(-image_size // self.options.stride)
            require_memory(cells, cells, device, passes=2)

    def preprocess(self, images: Tensor, infrared: Tensor | None = None) -> Tensor:
        """Network input (N, C, H, W) of RGB images (N, 3, H, W) and infrared (N, 1, H, W), in [0, 1].

        Raises:
            UserError: it is to see infrared, and there is none.
            TypeError, ValueError: they are no floats in [0, 1]; see ``models.inputs``.
        """
        require_pictures(images, self)
        return network_input(images, infrared, self.options)

    def forward(self, inputs: Tensor, ordering: int | None = None) -> Tensor:
        """Scores (N, K [+ 1], H, W) of preprocessed images.

        Args:
            ordering: 1 to 16, 0: none, or None: as ``segmenter.inference`` says.
        """
        if ordering is not None:
            return self.network(inputs, ordering)
        return self._inferred(self.network, inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """The last map before the decoder (N, C, h, w) of preprocessed images, as ``segmenter.inference`` says."""
        return self._inferred(self.network.features, inputs)

    def _inferred(self, function: Callable[..., Tensor], inputs: Tensor) -> Tensor:
        if self.options.inference == "plain":
            return function(inputs)
        return torch.stack([function(inputs, ordering) for ordering in self.options.orderings]).mean(0)

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``: the decoder learns ``head_multiplier`` times as fast."""
        head = [*self.network.decoder.parameters()]
        of_head = set(map(id, head))
        body = [parameter for parameter in self.network.parameters() if id(parameter) not in of_head]
        return [{"params": body, "multiplier": 1.0}, {"params": head, "multiplier": head_multiplier}]


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    return with_weights(Segmenter(options, num_parts, has_background), options, HEAD)


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    num_parts = num_parts_of(options, state, has_background, f"{HEAD}weight", shape="C, 1, 1")
    return Segmenter(options, num_parts, has_background)
